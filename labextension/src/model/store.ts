/**
 * The records of all kernels, kept up to date for whoever shows them.
 *
 * There is one store in a page. It reads a record further when the server's doorbell rings and,
 * slowly, when it does not: events are lost on whoever is not connected and can be forged, so what
 * they say is only ever a reason to look. Alerts are read of the kernels that somebody watches;
 * of the others their counts are enough.
 */

import { DisposableDelegate, IDisposable } from '@lumino/disposable';
import { Poll } from '@lumino/polling';
import { ISignal, Signal } from '@lumino/signaling';

import { ApiError, IApi } from './api';
import { KernelRecord } from './record';
import { count, object, text } from './wire';

/**
 * How the server was last reached: `absent` is a server without the extension, `forbidden` one
 * that knows the user and does not let them read.
 */
export type Connection =
  'new' | 'ok' | 'offline' | 'signed-out' | 'forbidden' | 'absent';

export interface IOptions {
  /** How many lines are held of each kernel. */
  rows: number;
  /** How often to look without having been asked, in milliseconds. */
  interval: number;
  /** The least time between two reads of a record, in milliseconds. */
  pause: number;
}

export const DEFAULTS: IOptions = {
  rows: 20_000,
  interval: 15_000,
  pause: 100
};

const PAGE = 1000;
const MAX_ENDED = 10;

export class Store implements IDisposable {
  constructor(
    private readonly _api: IApi,
    options: Partial<IOptions> = {}
  ) {
    this._options = { ...DEFAULTS, ...options };
    this._poll = new Poll({
      auto: false,
      name: '@modelarmor/labextension:store',
      frequency: {
        interval: this._options.interval,
        backoff: false, // one small request: what heals should be seen soon
        max: this._options.interval
      },
      standby: 'when-hidden',
      factory: () => this._look()
    });
  }

  /** A record grew, or how its kernel is confined changed; carries the kernel's id. */
  get recordChanged(): ISignal<this, string> {
    return this._recordChanged;
  }

  /** Kernels came or went. */
  get kernelsChanged(): ISignal<this, void> {
    return this._kernelsChanged;
  }

  get connectionChanged(): ISignal<this, Connection> {
    return this._connectionChanged;
  }

  get connection(): Connection {
    return this._connection;
  }

  get records(): readonly KernelRecord[] {
    return [...this._records.values()];
  }

  get isDisposed(): boolean {
    return this._disposed;
  }

  /** Kernels that are being started, which no notebook knows yet. */
  get starting(): readonly KernelRecord[] {
    return this.records.filter(
      ({ ended, state }) => state?.starting === true && !ended
    );
  }

  record(kernelId: string): KernelRecord | undefined {
    return this._records.get(kernelId);
  }

  configure(options: Partial<IOptions>): void {
    Object.assign(this._options, options);
    this._poll.frequency = {
      ...this._poll.frequency,
      interval: this._options.interval,
      max: this._options.interval
    };
    for (const record of this._records.values()) {
      record.rows = this._options.rows;
      this._recordChanged.emit(record.kernelId);
    }
  }

  /** Begin to look regularly. */
  start(): void {
    void this._poll.start();
  }

  /** Look now. */
  async refresh(): Promise<void> {
    await this._poll.refresh();
    await this._poll.tick.catch(() => undefined);
  }

  /** Have the alerts of a kernel read until what is returned is disposed of. */
  watch(kernelId: string): IDisposable {
    this._watched.set(kernelId, (this._watched.get(kernelId) ?? 0) + 1);
    this._ensure(kernelId);
    void this._read(kernelId);
    return new DisposableDelegate(() => {
      const left = (this._watched.get(kernelId) ?? 1) - 1;
      if (left > 0) {
        this._watched.set(kernelId, left);
      } else {
        this._watched.delete(kernelId);
      }
    });
  }

  /** The doorbell rang. Anyone who is logged in can ring it, with any data. */
  ring(data: unknown): void {
    const event = object(data);
    const kernelId = text(event.kernel_id, 100);
    const record = this._records.get(kernelId);
    if (record === undefined) {
      this._lookSoon(); // a new kernel, or nonsense: the list will tell
    } else if (count(event.seq) > record.read) {
      if (this._watched.has(kernelId)) {
        void this._read(kernelId);
      } else {
        this._lookSoon();
      }
    }
  }

  /** Something is told to have changed of the kernels that there are. */
  ringForKernels(): void {
    this._lookSoon();
  }

  /** Read a page of what is older than the lines held of a kernel. */
  async readOlder(kernelId: string): Promise<void> {
    const record = this._records.get(kernelId);
    if (!record?.hasOlder || this._readingOlder.has(kernelId)) {
      return;
    }
    this._readingOlder.add(kernelId);
    try {
      const after = Math.max(0, record.entries[0].seq - 1 - PAGE);
      const page = await this._api.alerts(kernelId, after, PAGE);
      record.addOlder(page);
      this._recordChanged.emit(kernelId);
    } finally {
      this._readingOlder.delete(kernelId);
    }
  }

  dispose(): void {
    if (!this._disposed) {
      this._disposed = true;
      clearTimeout(this._looking);
      void this._poll.stop(); // disposing of it leaves its timer behind
      this._poll.dispose();
      Signal.clearData(this);
    }
  }

  private async _look(): Promise<void> {
    let states;
    try {
      states = await this._api.kernels();
    } catch (error) {
      await this._failed(error);
      return;
    }
    this._set('ok');
    const first = !this._listed;
    this._listed = true;
    const alive = new Set(states.map(state => state.kernelId));
    let changed = false;
    for (const state of states) {
      changed = !this._records.has(state.kernelId) || changed;
      const record = this._ensure(state.kernelId);
      if (record.state === undefined && first) {
        record.known = state.last;
      }
      const before = JSON.stringify(record.state);
      record.update(state);
      if (JSON.stringify(state) !== before) {
        this._recordChanged.emit(state.kernelId);
      }
      if (this._watched.has(state.kernelId) && record.last > record.read) {
        void this._read(state.kernelId);
      }
    }
    for (const record of this._records.values()) {
      if (!alive.has(record.kernelId) && !record.ended) {
        record.ended = changed = true;
        this._recordChanged.emit(record.kernelId);
      }
    }
    if (this._forget() || changed) {
      this._kernelsChanged.emit();
    }
  }

  /** Of kernels that are gone the newest are kept, so that what they did can still be read. */
  private _forget(): boolean {
    const ended = this.records.filter(
      record => record.ended && !this._watched.has(record.kernelId)
    );
    const gone = [
      ...ended.filter(record => record.entries.length === 0),
      ...ended.filter(record => record.entries.length > 0).slice(0, -MAX_ENDED)
    ];
    for (const record of gone) {
      this._records.delete(record.kernelId);
    }
    return gone.length > 0;
  }

  private _lookSoon(): void {
    if (this._looking === undefined) {
      this._looking = setTimeout(() => {
        this._looking = undefined;
        if (!this._disposed) {
          void this._poll.refresh();
        }
      }, this._options.pause);
    }
  }

  /** One read of a record at a time; whoever asks meanwhile is served by one more after it. */
  private async _read(kernelId: string): Promise<void> {
    if (this._reading.has(kernelId)) {
      this._again.add(kernelId);
      return;
    }
    this._reading.add(kernelId);
    try {
      do {
        this._again.delete(kernelId);
        await this._readToEnd(kernelId);
        if (this._again.has(kernelId)) {
          await new Promise(done => setTimeout(done, this._options.pause));
        }
      } while (this._again.has(kernelId) && !this._disposed);
    } catch (error) {
      await this._failed(error, kernelId);
    } finally {
      this._reading.delete(kernelId);
      this._again.delete(kernelId);
    }
  }

  private async _readToEnd(kernelId: string): Promise<void> {
    const record = this._ensure(kernelId);
    let more = true;
    while (more && !this._disposed && this._watched.has(kernelId)) {
      const after = record.next();
      const page = await this._api.alerts(kernelId, after, PAGE);
      const before = record.read;
      record.add(page, after);
      more = record.read > before && record.last > record.read;
      this._recordChanged.emit(kernelId);
    }
    this._set('ok');
  }

  private async _failed(error: unknown, kernelId?: string): Promise<void> {
    const status = error instanceof ApiError ? error.status : 0;
    if (status === 401 || status === 403) {
      const known = await this._api.signedIn().catch(() => false);
      this._set(known ? 'forbidden' : 'signed-out');
    } else if (status === 404 && kernelId !== undefined) {
      this._lookSoon(); // it has ended
    } else if (status === 404) {
      this._set('absent');
    } else {
      this._set('offline');
    }
  }

  private _set(connection: Connection): void {
    if (connection !== this._connection) {
      this._connection = connection;
      this._connectionChanged.emit(connection);
    }
  }

  private _ensure(kernelId: string): KernelRecord {
    let record = this._records.get(kernelId);
    if (record === undefined) {
      record = new KernelRecord(kernelId, this._options.rows);
      this._records.set(kernelId, record);
    }
    return record;
  }

  private readonly _options: IOptions;
  private readonly _poll: Poll;
  private readonly _records = new Map<string, KernelRecord>();
  private readonly _watched = new Map<string, number>();
  private readonly _reading = new Set<string>();
  private readonly _again = new Set<string>();
  private readonly _readingOlder = new Set<string>();
  private readonly _recordChanged = new Signal<this, string>(this);
  private readonly _kernelsChanged = new Signal<this, void>(this);
  private readonly _connectionChanged = new Signal<this, Connection>(this);
  private _connection: Connection = 'new';
  private _listed = false;
  private _looking: ReturnType<typeof setTimeout> | undefined;
  private _disposed = false;
}
