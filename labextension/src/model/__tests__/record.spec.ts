import { KernelRecord } from '../record';
import { NO_COUNTS } from '../wire';
import { entry, page, state } from './support';

const lines = (from: number, to: number) =>
  Array.from({ length: to - from + 1 }, (_, i) => entry(from + i));

describe('a record', () => {
  it('holds the newest rows and lets older ones go', () => {
    const record = new KernelRecord('k', 100);
    record.add(page(lines(1, 500)), 0);
    expect(record.entries.length).toBe(100);
    expect(record.entries[0].seq).toBe(401);
    expect(record.read).toBe(500);
    expect(record.hasOlder).toBe(true);
  });

  it('skips what it would let go at once', () => {
    const record = new KernelRecord('k', 100);
    expect(record.next(100_000)).toBe(99_900);
    record.add(page(lines(99_901, 100_000)), 99_900);
    expect(record.entries.length).toBe(100);
    expect(record.missed).toBe(0);
    expect(record.hasOlder).toBe(true);
  });

  it('takes each line once', () => {
    const record = new KernelRecord('k', 100);
    record.add(page(lines(1, 3)), 0);
    record.add(page(lines(2, 5)), 0);
    expect(record.entries.map(({ seq }) => seq)).toEqual([1, 2, 3, 4, 5]);
  });

  it('counts apart what every kernel is refused as it starts', () => {
    const record = new KernelRecord('k', 100);
    const counts = { ...NO_COUNTS, total: 7 };
    record.add(page([entry(1, { expected: 'x' }), entry(2)], { counts }), 0);
    expect(record.counts.total).toBe(7);
    expect(record.violations).toBe(6);
    record.reset();
    expect(record.violations).toBe(0);
  });

  it('counts what the server no longer had', () => {
    const record = new KernelRecord('k', 100);
    record.add(page(lines(1, 3)), 0);
    record.add(page(lines(10, 12), { missed: 6 }), 3);
    expect(record.missed).toBe(6);
  });

  it('begins anew where the numbers do', () => {
    const record = new KernelRecord('k', 100);
    record.add(page(lines(1, 50)), 0);
    record.update(state({ last: 2 }));
    expect(record.entries).toEqual([]);
    expect(record.next()).toBe(0);
    record.add(page(lines(1, 2)), 0);
    expect(record.read).toBe(2);
  });

  it('can be scrolled back, and settles again', () => {
    const record = new KernelRecord('k', 10);
    record.add(page(lines(1, 30)), 0);
    record.addOlder(page(lines(11, 20)));
    expect(record.entries[0].seq).toBe(11);
    expect(record.hasOlder).toBe(true);
    record.addOlder(page(lines(1, 10)));
    expect(record.hasOlder).toBe(false);
    record.settle();
    expect(record.entries.length).toBe(10);
  });

  it('knows that the server has no older lines', () => {
    const record = new KernelRecord('k', 10);
    record.add(page(lines(1, 30)), 0);
    record.addOlder(page(lines(15, 20), { missed: 4 }));
    expect(record.hasOlder).toBe(false);
  });
});
