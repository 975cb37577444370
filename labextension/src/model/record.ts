/**
 * The part of one kernel's record that this page holds.
 *
 * The server numbers alerts from 1 and keeps the newest of them; a page holds the newest `rows` of
 * those. Counts are the server's, so they stay exact whatever either of them lets go.
 */

import { ICounts, IEntry, IPage, IState, NO_COUNTS } from './wire';

/** However much is scrolled back: what a page holds of one kernel. */
export const MAX_ROWS = 200_000;

// Letting go in lots: each one costs a walk over the whole.
const SLACK = 1.1;

export class KernelRecord {
  constructor(
    readonly kernelId: string,
    rows: number
  ) {
    this._rows = rows;
  }

  /** How the kernel is confined; undefined until the server has said so. */
  state: IState | undefined;

  /** The kernel is gone; what it left can still be read here. */
  ended = false;

  /** The number up to which the record had grown when this page first heard of the kernel. */
  known = 0;

  /** Oldest first. Not to be changed. */
  get entries(): readonly IEntry[] {
    return this._entries;
  }

  /** The newest number that was read. */
  get read(): number {
    return this._read;
  }

  /** The newest number there is, as far as is known. */
  get last(): number {
    return Math.max(this._read, this._last);
  }

  get counts(): ICounts {
    return this._counts;
  }

  /** How many there were that say something of what the kernel was made to do. */
  get violations(): number {
    return Math.max(0, this._counts.total - this._expected);
  }

  /** How many had fallen out of the server's record before they could be read. */
  get missed(): number {
    return this._missed;
  }

  /** Grows whenever lines went away or came in at the old end: views begin anew. */
  get generation(): number {
    return this._generation;
  }

  /** Whether the server has, or had, lines older than those held here. */
  get hasOlder(): boolean {
    return (
      this._older &&
      this._entries.length < MAX_ROWS &&
      this._entries.length > 0 &&
      this._entries[0].seq > 1
    );
  }

  /** How many lines are held unless the user scrolls back. */
  set rows(rows: number) {
    this._rows = rows;
    this._trim(1);
  }

  /** The server's word on how the kernel is confined and how far its record goes. */
  update(state: IState): void {
    if (state.last < this._read) {
      this.reset(); // another kernel's record under the same id
    }
    this.state = state;
    this.ended = false;
    this._last = state.last;
    if (state.counts.total >= this._counts.total) {
      this._counts = state.counts;
    }
  }

  /** Where to read on: what would be let go at once is not read at all. */
  next(last = this.last): number {
    return Math.max(this._read, last - this._rows);
  }

  /** Take in what was read after number `after`. */
  add(page: IPage, after: number): void {
    if (page.last < this._read) {
      this.reset();
      return;
    }
    if (after > this._read) {
      // skipped lines can be scrolled back to, but not with a gap before those held
      this._entries = [];
      this._older = true;
      this._generation++;
    } else {
      this._missed += page.missed;
    }
    for (const entry of page.entries) {
      if (entry.seq > this._read) {
        this._entries.push(entry);
        this._read = entry.seq;
        this._expected += entry.expected ? 1 : 0;
      }
    }
    if (page.entries.length === 0) {
      this._read = Math.max(this._read, page.last);
    }
    this._last = page.last;
    if (page.counts) {
      this._counts = page.counts;
    }
    this._trim(SLACK);
  }

  /** Take in lines that come right before those held. */
  addOlder(page: IPage): void {
    const first = this._entries.length ? this._entries[0].seq : Infinity;
    const older = page.entries.filter(entry => entry.seq < first);
    this._older = older.length > 0 && page.missed === 0;
    if (older.length) {
      this._entries = [...older, ...this._entries];
      this._scrolledBack += older.length;
      this._generation++;
    }
  }

  /** Let go what was scrolled back to. */
  settle(): void {
    this._scrolledBack = 0;
    this._trim(1);
  }

  /** Forget everything: the record starts again from number 1. */
  reset(): void {
    this._entries = [];
    this._read = 0;
    this._last = 0;
    this._missed = 0;
    this._scrolledBack = 0;
    this._older = false;
    this._counts = NO_COUNTS;
    this._expected = 0;
    this.known = 0;
    this._generation++;
  }

  private _trim(slack: number): void {
    const rows = Math.min(this._rows + this._scrolledBack, MAX_ROWS);
    if (this._entries.length > rows * slack) {
      this._entries = this._entries.slice(-rows);
      this._older = true;
      this._generation++;
    }
  }

  private _entries: IEntry[] = [];
  private _rows: number;
  private _read = 0;
  private _last = 0;
  private _missed = 0;
  private _scrolledBack = 0;
  private _older = false;
  private _generation = 0;
  private _counts: ICounts = NO_COUNTS;
  private _expected = 0;
}
