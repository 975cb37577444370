import { Cells } from '../cells';
import { ICell } from '../wire';

const none = () => undefined;

function cell(more: Partial<ICell> = {}): ICell {
  return { attributed: 'time', msgId: 'm1', executionCount: 1, ...more };
}

describe('the cell of an alert', () => {
  it('is the one that the request came from', () => {
    const cells = new Cells();
    cells.sent('m1', 'a');
    expect(cells.find(1, cell(), none)).toBe('a');
    expect(cells.find(1, cell({ attributed: 'after' }), none)).toBe('a');
  });

  it('is found by the number in its brackets after a reload', () => {
    const byCount = (n: number) => (n === 1 ? 'a' : undefined);
    expect(new Cells().find(1, cell(), byCount)).toBe('a');
  });

  it('is none while the kernel started, and where nobody knows', () => {
    const cells = new Cells();
    cells.sent('m1', 'a');
    expect(
      cells.find(1, cell({ attributed: 'startup' }), () => 'a')
    ).toBeUndefined();
    expect(
      cells.find(1, cell({ attributed: 'unknown' }), () => 'a')
    ).toBeUndefined();
  });

  it('is not taken for that of an earlier life of the kernel', () => {
    const cells = new Cells();
    cells.restarted(10);
    expect(cells.find(10, cell(), () => 'a')).toBeUndefined();
    expect(cells.find(11, cell(), () => 'a')).toBe('a');
    expect(new Cells(10).find(10, cell(), () => 'a')).toBeUndefined();
  });

  it('answers for its last run alone', () => {
    const cells = new Cells();
    cells.sent('m1', 'a');
    cells.sent('m2', 'a');
    expect(cells.findCurrent(1, cell(), none)).toBeUndefined();
    expect(cells.find(1, cell(), none)).toBe('a');
    expect(cells.findCurrent(2, cell({ msgId: 'm2' }), none)).toBe('a');
  });

  it('remembers a bounded number of requests', () => {
    const cells = new Cells();
    for (let i = 0; i < 6000; i++) {
      cells.sent(`m${i}`, `c${i}`);
    }
    expect(cells.find(1, cell({ msgId: 'm0' }), none)).toBeUndefined();
    expect(cells.find(1, cell({ msgId: 'm5999' }), none)).toBe('c5999');
  });
});
