/** What is worth interrupting for: the first violation of a kind in each kernel, and no other. */

import { actionOf, isThrottled, operationOf, policyOf } from './entry';
import { KernelRecord } from './record';
import { IEntry } from './wire';

const MAX_KINDS = 1000;

interface ISeen {
  generation: number;
  read: number;
  kinds: Set<string>;
}

export class Notices {
  /**
   * The lines of a record that are the first of their kind since the last call.
   *
   * What was there before the page was opened is not news.
   */
  fresh(record: KernelRecord): IEntry[] {
    let seen = this._seen.get(record.kernelId);
    if (seen === undefined) {
      seen = { generation: 0, read: 0, kinds: new Set() };
      this._seen.set(record.kernelId, seen);
    }
    if (record.read < seen.read) {
      seen.read = 0; // another record under the same id
    }
    const { kinds, read } = seen;
    const firsts: IEntry[] = [];
    const { entries } = record;
    for (let i = startAfter(entries, read); i < entries.length; i++) {
      const entry = entries[i];
      const kind = [
        operationOf(entry),
        actionOf(entry),
        policyOf(entry)
      ].join();
      if (entry.expected || isThrottled(entry)) {
        continue;
      }
      if (!kinds.has(kind) && kinds.size < MAX_KINDS) {
        kinds.add(kind);
        if (entry.seq > record.known) {
          firsts.push(entry);
        }
      }
    }
    seen.read = record.read;
    return firsts;
  }

  /** The kernel is gone. */
  forget(kernelId: string): void {
    this._seen.delete(kernelId);
  }

  private readonly _seen = new Map<string, ISeen>();
}

/** The index of the first line with a number above `seq`. */
export function startAfter(entries: readonly IEntry[], seq: number): number {
  let low = 0;
  let high = entries.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (entries[middle].seq <= seq) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}
