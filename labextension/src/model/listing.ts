/**
 * The lines of one record as a list to look at: newest first, filtered, and with what repeats put
 * together. A list of 100,000 lines is kept up to date by what was added, not made anew.
 */

import { kindOf } from './entry';
import { ANY, cellNumber, IFilter, matcher } from './filter';
import { KernelRecord } from './record';
import { IEntry } from './wire';

/** One or more lines that say the same. */
export interface IRow {
  /** Stays the same while the row grows. */
  readonly key: string;
  readonly kernelId: string;
  /** The newest of them. */
  readonly entry: IEntry;
  /** The numbers of the oldest and the newest. */
  readonly first: number;
  readonly count: number;
  /** Numbers in the brackets of cells, at most a few; 0 for none. */
  readonly cells: readonly number[];
}

const MAX_CELLS = 20;

type Row = { -readonly [Name in keyof IRow]: IRow[Name] } & { cells: number[] };

export class Listing {
  constructor(readonly record: KernelRecord) {}

  get filter(): IFilter {
    return this._filter;
  }

  set filter(filter: IFilter) {
    this._filter = filter;
    this._matches = matcher(filter);
    this._begin();
  }

  get grouped(): boolean {
    return this._grouped;
  }

  set grouped(grouped: boolean) {
    this._grouped = grouped;
    this._begin();
  }

  /** Newest first. The same array as before where nothing changed. */
  rows(): readonly IRow[] {
    this._update();
    return (this._newestFirst ??= [...this._rows.values()].reverse());
  }

  private _update(): void {
    const { entries, generation } = this.record;
    if (generation !== this._generation) {
      this._begin();
    }
    if (this._done === entries.length) {
      return;
    }
    for (const entry of entries.slice(this._done)) {
      if (this._matches(entry)) {
        this._add(entry);
        this._newestFirst = undefined;
      }
    }
    this._done = entries.length;
  }

  private _begin(): void {
    this._rows = new Map();
    this._newestFirst = undefined;
    this._done = 0;
    this._generation = this.record.generation;
  }

  private _add(entry: IEntry): void {
    const { kernelId } = this.record;
    const key = this._grouped ? kindOf(entry) : String(entry.seq);
    const number = cellNumber(entry);
    const row = this._rows.get(key);
    if (row === undefined) {
      this._rows.set(key, {
        key: `${kernelId} ${key}`,
        kernelId,
        entry,
        first: entry.seq,
        count: 1,
        cells: [number]
      });
      return;
    }
    // a new object, so that what is on screen can tell by identity that it changed
    const cells =
      row.cells.includes(number) || row.cells.length >= MAX_CELLS
        ? row.cells
        : [...row.cells, number];
    this._rows.delete(key); // to the end, which is the newest
    this._rows.set(key, { ...row, entry, count: row.count + 1, cells });
  }

  private _filter: IFilter = ANY;
  private _matches = matcher(ANY);
  private _grouped = true;
  private _rows = new Map<string, Row>();
  private _newestFirst: readonly IRow[] | undefined;
  private _done = 0;
  private _generation = -1;
}

/** Rows of several kernels as one list, newest first. */
export function merge(
  lists: readonly (readonly IRow[])[],
  timeOf: (entry: IEntry) => string
): readonly IRow[] {
  const filled = lists.filter(list => list.length > 0);
  if (filled.length < 2) {
    return filled[0] ?? [];
  }
  const half = filled.length >> 1;
  const left = merge(filled.slice(0, half), timeOf);
  const right = merge(filled.slice(half), timeOf);
  const merged: IRow[] = [];
  let i = 0;
  let j = 0;
  while (i < left.length && j < right.length) {
    merged.push(
      timeOf(left[i].entry) >= timeOf(right[j].entry) ? left[i++] : right[j++]
    );
  }
  while (i < left.length) {
    merged.push(left[i++]);
  }
  while (j < right.length) {
    merged.push(right[j++]);
  }
  return merged;
}
