import { ApiError, IApi } from '../api';
import { IEntry, IPage, IState, readPage, readState } from '../wire';

export function entry(seq: number, more: Record<string, unknown> = {}): IEntry {
  const { cell, expected, ...alert } = more;
  return {
    seq,
    cell: (cell as IEntry['cell']) ?? {
      attributed: 'time',
      msgId: 'm1',
      executionCount: 1
    },
    expected: expected as string | undefined,
    alert: {
      Operation: 'File',
      Action: 'Block',
      Resource: '/etc/shadow',
      ProcessName: '/usr/bin/python3',
      PolicyName: 'credentials',
      Severity: '9',
      UpdatedTime: `2026-01-01T00:00:${String(seq % 60).padStart(2, '0')}.000000Z`,
      ...alert
    }
  };
}

export function page(
  entries: readonly IEntry[],
  more: Partial<IPage> = {}
): IPage {
  return {
    confined: true,
    last: entries.length ? entries[entries.length - 1].seq : 0,
    missed: 0,
    entries,
    ...more
  };
}

export function state(more: Record<string, unknown> = {}): IState {
  return readState({
    kernel_id: 'k',
    confined: true,
    profile: { name: 'notebook', title: 'Notebook' },
    last: 0,
    ...more
  });
}

/** A server with kernels whose records hold their newest `capacity` alerts, as the real one does. */
export class Server implements Pick<IApi, 'kernels' | 'alerts' | 'signedIn'> {
  readonly records = new Map<string, IEntry[]>();
  readonly asked: string[] = [];
  capacity = 10_000;
  down = 0;
  session = true;
  /** What the state of a kernel also says. */
  readonly said = new Map<string, Record<string, unknown>>();

  add(kernelId: string, n: number, more: Record<string, unknown> = {}): void {
    const record = this.records.get(kernelId) ?? [];
    this.records.set(kernelId, record);
    for (let i = 0; i < n; i++) {
      record.push(entry(record.length + 1, more));
    }
  }

  async kernels(): Promise<IState[]> {
    this._check('kernels');
    return [...this.records].map(([kernelId, record]) =>
      state({
        kernel_id: kernelId,
        last: record.length,
        ...this.said.get(kernelId)
      })
    );
  }

  async alerts(kernelId: string, after: number, limit: number): Promise<IPage> {
    this._check(`${kernelId} after ${after}`);
    const record = this.records.get(kernelId);
    if (!record) {
      throw new ApiError(404, 'there is no such kernel');
    }
    const first = Math.max(0, record.length - this.capacity);
    const from = Math.max(after, first);
    const alerts = record.slice(from, from + limit).map(line => ({
      seq: line.seq,
      cell: { attributed: 'time', msg_id: 'm1', execution_count: 1 },
      alert: line.alert
    }));
    return readPage(
      { last: record.length, missed: Math.max(0, first - after), alerts },
      text => text
    );
  }

  async signedIn(): Promise<boolean> {
    return this.session;
  }

  get api(): IApi {
    return this as unknown as IApi;
  }

  private _check(what: string): void {
    this.asked.push(what);
    if (this.down) {
      throw new ApiError(this.down === -1 ? 0 : this.down, 'no');
    }
  }
}

/** Until `holds` does. A test that waits in vain fails, and does not keep jest from ending. */
export async function until(holds: () => boolean): Promise<void> {
  for (let i = 0; i < 2000; i++) {
    if (holds()) {
      return;
    }
    await new Promise(done => setTimeout(done, 1));
  }
  throw new Error(`in vain: ${holds}`);
}
