import { timeOf } from '../entry';
import { ANY, matcher, readFilter } from '../filter';
import { Listing, merge } from '../listing';
import { KernelRecord } from '../record';
import { entry, page } from './support';

function recordOf(...entries: ReturnType<typeof entry>[]): KernelRecord {
  const record = new KernelRecord('k', 1000);
  record.add(page(entries), 0);
  return record;
}

describe('a listing', () => {
  it('puts what repeats together, the newest kind first', () => {
    const record = recordOf(
      entry(1, { Resource: '/a' }),
      entry(2, { Resource: '/b' }),
      entry(3, { Resource: '/a' })
    );
    const rows = new Listing(record).rows();
    expect(rows.map(row => [row.entry.seq, row.count, row.first])).toEqual([
      [3, 2, 1],
      [2, 1, 2]
    ]);
  });

  it('grows by what was added, and the row keeps its key', () => {
    const record = recordOf(entry(1, { Resource: '/a' }));
    const listing = new Listing(record);
    const [before] = listing.rows();
    expect(listing.rows()).toBe(listing.rows());
    record.add(page([entry(2, { Resource: '/a' })]), 1);
    const [after] = listing.rows();
    expect(after.key).toBe(before.key);
    expect([before.count, after.count]).toEqual([1, 2]);
  });

  it('tells apart what differs in action, process or policy', () => {
    const record = recordOf(
      entry(1),
      entry(2, { Action: 'Audit' }),
      entry(3, { ProcessName: '/bin/sh' }),
      entry(4, { PolicyName: 'other' })
    );
    expect(new Listing(record).rows().length).toBe(4);
  });

  it('lists each by itself when asked to', () => {
    const listing = new Listing(recordOf(entry(1), entry(2)));
    listing.grouped = false;
    expect(listing.rows().map(row => row.entry.seq)).toEqual([2, 1]);
  });

  it('says which cells a row came from', () => {
    const cell = (executionCount: number) => ({
      attributed: 'time',
      executionCount
    });
    const record = recordOf(
      entry(1, { cell: cell(3) }),
      entry(2, { cell: cell(4) }),
      entry(3, { cell: { attributed: 'startup' } })
    );
    expect(new Listing(record).rows()[0].cells).toEqual([3, 4, 0]);
  });

  it('forgets what the record let go', () => {
    const record = new KernelRecord('k', 10);
    record.add(page([entry(1, { Resource: '/old' })]), 0);
    const listing = new Listing(record);
    expect(listing.rows().length).toBe(1);
    const flood = Array.from({ length: 20 }, (_, i) => entry(i + 2));
    record.add(page(flood), 1);
    expect(listing.rows().map(row => row.count)).toEqual([10]);
  });

  it('keeps 100,000 lines within a frame for each new page', () => {
    const record = new KernelRecord('k', 200_000);
    const listing = new Listing(record);
    for (let after = 0; after < 100_000; after += 1000) {
      const flood = Array.from({ length: 1000 }, (_, i) =>
        entry(after + i + 1, { Resource: `/f/${(after + i) % 5000}` })
      );
      record.add(page(flood), after);
      listing.rows();
    }
    expect(listing.rows().length).toBe(5000);
    expect(listing.rows().reduce((sum, row) => sum + row.count, 0)).toBe(
      100_000
    );
  });
});

describe('a filter', () => {
  const lines = [
    entry(1),
    entry(2, { Operation: 'Network', Severity: '', Resource: 'tcp' }),
    entry(3, { Action: 'Audit', Severity: '5' }),
    entry(4, { cell: { attributed: 'startup' } }),
    entry(5, { cell: { attributed: 'after', executionCount: 7 } })
  ];
  const through = (filter: object) =>
    lines.filter(matcher({ ...ANY, ...filter })).map(({ seq }) => seq);

  it('looks at operation, action, severity, cell and text', () => {
    expect(through({})).toEqual([1, 2, 3, 4, 5]);
    expect(through({ operations: ['Network'] })).toEqual([2]);
    expect(through({ actions: ['Audit'] })).toEqual([3]);
    expect(through({ severity: 6 })).toEqual([1, 4, 5]);
    expect(through({ severity: 1 })).toEqual([1, 3, 4, 5]);
    expect(through({ cell: 7 })).toEqual([5]);
    expect(through({ cell: 0 })).toEqual([4]);
    expect(through({ text: 'SHADOW', operations: ['File'] })).toEqual([
      1, 3, 4, 5
    ]);
  });

  it('takes from a kernel what makes sense', () => {
    expect(readFilter(null)).toEqual(ANY);
    expect(
      readFilter({ operation: { a: 1 }, severity: 'x', cell: 'y' })
    ).toEqual(ANY);
    expect(
      readFilter({
        operation: 'File',
        action: ['Block', 3],
        severity: 5,
        cell: 2
      })
    ).toEqual({
      operations: ['File'],
      actions: ['Block'],
      severity: 5,
      cell: 2,
      text: ''
    });
  });
});

describe('records of several kernels', () => {
  it('are one list, newest first', () => {
    const rows = (kernelId: string, ...seqs: number[]) => {
      const record = new KernelRecord(kernelId, 100);
      record.add(page(seqs.map(seq => entry(seq))), 0);
      const listing = new Listing(record);
      listing.grouped = false;
      return listing.rows();
    };
    const merged = merge(
      [rows('a', 1, 4, 9), rows('b', 2, 3), rows('c'), rows('d', 5)],
      timeOf
    );
    expect(merged.map(row => row.entry.seq)).toEqual([9, 5, 4, 3, 2, 1]);
  });
});
