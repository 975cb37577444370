/**
 * Which cell of a notebook an alert fell into.
 *
 * The server says which request was being executed. The page that sent the request knows the cell
 * it came from. After a reload, and for what another page sent, the number that the cell shows in
 * its brackets is left: it is unique until the kernel restarts.
 */

import { ICell } from './wire';

/** How many requests are remembered of a notebook. */
const MAX_REQUESTS = 5_000;

export class Cells {
  /** @param floor what happened up to this number of the record was before the last restart */
  constructor(floor = 0) {
    this._floor = floor;
  }

  get floor(): number {
    return this._floor;
  }

  /** A cell was sent to the kernel. */
  sent(msgId: string, cellId: string): void {
    this._cells.set(msgId, cellId);
    this._current.set(cellId, msgId);
    if (this._cells.size > MAX_REQUESTS) {
      for (const oldest of this._cells.keys()) {
        if (this._current.get(this._cells.get(oldest)!) === oldest) {
          this._current.delete(this._cells.get(oldest)!);
        }
        this._cells.delete(oldest);
        break;
      }
    }
  }

  /** The kernel restarted when its record had grown to number `last`. */
  restarted(last: number): void {
    this._floor = last;
  }

  /**
   * The cell that an alert fell into.
   *
   * @param byCount the cell that shows a number in its brackets
   */
  find(
    seq: number,
    cell: ICell,
    byCount: (executionCount: number) => string | undefined
  ): string | undefined {
    if (cell.attributed !== 'time' && cell.attributed !== 'after') {
      return undefined;
    }
    const known = cell.msgId && this._cells.get(cell.msgId);
    if (known) {
      return known;
    }
    return cell.executionCount !== undefined && seq > this._floor
      ? byCount(cell.executionCount)
      : undefined;
  }

  /**
   * The same, where what the cell shows now comes from that execution: a cell that was run again
   * answers for what it does now.
   */
  findCurrent(
    seq: number,
    cell: ICell,
    byCount: (executionCount: number) => string | undefined
  ): string | undefined {
    const found = this.find(seq, cell, byCount);
    if (found === undefined) {
      return undefined;
    }
    const current = this._current.get(found);
    return current === undefined || current === cell.msgId ? found : undefined;
  }

  private readonly _cells = new Map<string, string>();
  private readonly _current = new Map<string, string>();
  private _floor: number;
}
