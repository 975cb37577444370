import { Notices, startAfter } from '../notices';
import { KernelRecord } from '../record';
import { entry, page } from './support';

describe('notices', () => {
  it('are of the first of a kind in each kernel', () => {
    const notices = new Notices();
    const record = new KernelRecord('k', 1000);
    record.add(
      page([entry(1), entry(2), entry(3, { Operation: 'Network' })]),
      0
    );
    expect(notices.fresh(record).map(({ seq }) => seq)).toEqual([1, 3]);
    record.add(page([entry(4), entry(5, { PolicyName: 'other' })]), 3);
    expect(notices.fresh(record).map(({ seq }) => seq)).toEqual([5]);
    const other = new KernelRecord('l', 1000);
    other.add(page([entry(1)]), 0);
    expect(notices.fresh(other).length).toBe(1);
  });

  it('are not of what was there before the page was', () => {
    const notices = new Notices();
    const record = new KernelRecord('k', 1000);
    record.known = 2;
    record.add(page([entry(1), entry(2)]), 0);
    expect(notices.fresh(record)).toEqual([]);
    record.add(page([entry(3), entry(4, { Operation: 'Network' })]), 2);
    expect(notices.fresh(record).map(({ seq }) => seq)).toEqual([4]);
  });

  it('are not of what every kernel is refused as it starts', () => {
    const record = new KernelRecord('k', 1000);
    record.add(page([entry(1, { expected: 'a habit' }), entry(2)]), 0);
    expect(new Notices().fresh(record).map(({ seq }) => seq)).toEqual([2]);
  });

  it('are not of alerts about dropped alerts', () => {
    const record = new KernelRecord('k', 1000);
    record.add(page([entry(1, { Operation: 'AlertThreshold' })]), 0);
    expect(new Notices().fresh(record)).toEqual([]);
  });
});

it('finds where the lines after a number begin', () => {
  const lines = [2, 4, 6].map(seq => entry(seq));
  expect([0, 2, 3, 6, 9].map(seq => startAfter(lines, seq))).toEqual([
    0, 1, 1, 3, 3
  ]);
});
