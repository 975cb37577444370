/** What the panel shows: of which kernels, which lines, and which of them is looked at. */

import { IDisposable } from '@lumino/disposable';
import { ISignal, Signal } from '@lumino/signaling';

import { timeOf } from './entry';
import { ANY, cellNumber, IFilter } from './filter';
import { IRow, Listing, merge } from './listing';
import { KernelRecord } from './record';
import { Store } from './store';

export type Scope = 'current' | 'all';

const MAX_CHOICES = 200;

/** What there is to choose from in the filters. */
export interface IChoices {
  readonly operations: readonly string[];
  readonly actions: readonly string[];
  /** Numbers in the brackets of cells, newest first; 0 for what fell into none. */
  readonly cells: readonly number[];
}

/** What is missing from the list, and why. */
export interface IAbsent {
  /** Fell out of the server's record before this page read them. */
  readonly missed: number;
  /** Counted by the enforcer without details, in a flood. */
  readonly suppressed: number;
  /** Lines that say so (KubeArmor's AlertThreshold). */
  readonly thresholds: number;
}

export class PanelModel implements IDisposable {
  constructor(readonly store: Store) {
    store.recordChanged.connect(this._onRecord, this);
    store.kernelsChanged.connect(this._onKernels, this);
    store.connectionChanged.connect(this._emit, this);
  }

  get changed(): ISignal<this, void> {
    return this._changed;
  }

  get isDisposed(): boolean {
    return this._disposed;
  }

  /** Whether anyone sees the panel: nothing is read for one that nobody sees. */
  get visible(): boolean {
    return this._visible;
  }

  set visible(visible: boolean) {
    if (visible !== this._visible) {
      this._visible = visible;
      this._arrange();
    }
  }

  /** The kernel that the user works with. */
  get current(): string | null {
    return this._current;
  }

  set current(kernelId: string | null) {
    if (kernelId !== this._current) {
      this._current = kernelId;
      this._arrange();
    }
  }

  get scope(): Scope {
    return this._scope;
  }

  set scope(scope: Scope) {
    this._scope = scope;
    this._arrange();
  }

  get filter(): IFilter {
    return this._filter;
  }

  set filter(filter: IFilter) {
    this._filter = filter;
    for (const listing of this._listings.values()) {
      listing.filter = filter;
    }
    this._emit();
  }

  get grouped(): boolean {
    return this._grouped;
  }

  set grouped(grouped: boolean) {
    this._grouped = grouped;
    for (const listing of this._listings.values()) {
      listing.grouped = grouped;
    }
    this._emit();
  }

  get selected(): IRow | undefined {
    return this._selected;
  }

  set selected(row: IRow | undefined) {
    this._selected = row;
    this._emit();
  }

  /** The records that are shown. */
  get records(): readonly KernelRecord[] {
    return [...this._listings.values()].map(listing => listing.record);
  }

  get currentRecord(): KernelRecord | undefined {
    return this._current === null
      ? undefined
      : this.store.record(this._current);
  }

  /** Newest first. */
  rows(): readonly IRow[] {
    return merge(
      [...this._listings.values()].map(listing => listing.rows()),
      timeOf
    );
  }

  /** How many violations there were, shown or not. */
  total(): number {
    return this.records.reduce((sum, { counts }) => sum + counts.total, 0);
  }

  absent(): IAbsent {
    let missed = 0;
    let suppressed = 0;
    let thresholds = 0;
    for (const record of this.records) {
      missed += record.missed;
      suppressed += record.counts.suppressed;
      thresholds += record.counts.by_operation.AlertThreshold ?? 0;
    }
    return { missed, suppressed, thresholds };
  }

  /** Why alerts of what is shown do not arrive, each reason once. */
  unheard(): readonly string[] {
    const reasons = this.records
      .filter(({ ended }) => !ended)
      .map(({ state }) => state?.alertsNotHeard ?? '');
    return [...new Set(reasons)].filter(reason => reason !== '');
  }

  choices(): IChoices {
    const operations = new Set<string>();
    const actions = new Set<string>();
    const cells = new Set<number>();
    for (const record of this.records) {
      Object.keys(record.counts.by_operation).forEach(name =>
        operations.add(name)
      );
      Object.keys(record.counts.by_action).forEach(name => actions.add(name));
      const { entries } = record;
      for (let i = entries.length - 1; i >= 0; i--) {
        if (cells.size >= MAX_CHOICES || entries.length - i > 5000) {
          break;
        }
        cells.add(cellNumber(entries[i]));
      }
    }
    return {
      operations: [...operations].sort(),
      actions: [...actions].sort(),
      cells: [...cells].sort((a, b) => b - a)
    };
  }

  /** Whether the server has lines older than those listed. */
  get hasOlder(): boolean {
    return this.records.some(record => record.hasOlder);
  }

  async readOlder(): Promise<void> {
    const older = this.records.filter(record => record.hasOlder);
    await Promise.all(
      older.map(({ kernelId }) => this.store.readOlder(kernelId))
    );
  }

  /** Show one kernel's lines from one cell. */
  showCell(executionCount: number): void {
    this._scope = 'current';
    this._filter = { ...ANY, cell: executionCount };
    this._arrange();
  }

  dispose(): void {
    if (!this._disposed) {
      this._disposed = true;
      this._watches.forEach(watch => watch.dispose());
      Signal.clearData(this);
    }
  }

  private _arrange(): void {
    const ids =
      this._scope === 'all'
        ? this.store.records.map(record => record.kernelId)
        : this._current === null
          ? []
          : [this._current];
    for (const [id, watch] of this._watches) {
      if (!this._visible || !ids.includes(id)) {
        watch.dispose();
        this._watches.delete(id);
        this.store.record(id)?.settle();
      }
    }
    const listings = new Map<string, Listing>();
    for (const id of ids) {
      if (this._visible && !this._watches.has(id)) {
        this._watches.set(id, this.store.watch(id));
      }
      const record = this.store.record(id);
      if (record !== undefined) {
        listings.set(id, this._listing(record));
      }
    }
    this._listings = listings;
    if (this._selected && !listings.has(this._selected.kernelId)) {
      this._selected = undefined;
    }
    this._emit();
  }

  private _listing(record: KernelRecord): Listing {
    const known = this._listings.get(record.kernelId);
    const listing = known?.record === record ? known : new Listing(record);
    if (listing.filter !== this._filter) {
      listing.filter = this._filter;
    }
    if (listing.grouped !== this._grouped) {
      listing.grouped = this._grouped;
    }
    return listing;
  }

  private _onRecord(_: Store, kernelId: string): void {
    if (this._listings.has(kernelId) || kernelId === this._current) {
      if (!this._listings.has(kernelId)) {
        this._arrange();
      } else {
        this._emit();
      }
    }
  }

  private _onKernels(): void {
    this._arrange();
  }

  private _emit(): void {
    this._changed.emit();
  }

  private readonly _changed = new Signal<this, void>(this);
  private readonly _watches = new Map<string, IDisposable>();
  private _listings = new Map<string, Listing>();
  private _visible = false;
  private _current: string | null = null;
  private _scope: Scope = 'current';
  private _filter: IFilter = ANY;
  private _grouped = true;
  private _selected: IRow | undefined;
  private _disposed = false;
}
