/**
 * The notebooks that are open: which cell was sent to the kernel as which request, and what each
 * cell was refused.
 */

import { JupyterFrontEnd } from '@jupyterlab/application';
import { Cell, ICodeCellModel } from '@jupyterlab/cells';
import {
  INotebookTracker,
  NotebookActions,
  NotebookPanel
} from '@jupyterlab/notebook';
import { Kernel } from '@jupyterlab/services';
import { IDisposable } from '@lumino/disposable';
import { ISignal, Signal } from '@lumino/signaling';

import { Cells } from '../model/cells';
import { isThrottled } from '../model/entry';
import { startAfter } from '../model/notices';
import { KernelRecord } from '../model/record';
import { Store } from '../model/store';
import { IEntry } from '../model/wire';

const RESTARTS: readonly string[] = ['restarting', 'autorestarting'];
const FLOOR = 'modelarmor:restarted:';

/** What a cell was refused since it was last run. */
export interface ITally {
  readonly count: number;
  /** The newest of them. */
  readonly newest: IEntry;
}

/** One open notebook. */
export class OpenNotebook implements IDisposable {
  constructor(
    readonly panel: NotebookPanel,
    private readonly _store: Store
  ) {
    panel.sessionContext.kernelChanged.connect(this._onKernel, this);
    panel.sessionContext.statusChanged.connect(this._onStatus, this);
    _store.recordChanged.connect(this._onRecord, this);
    NotebookActions.executionScheduled.connect(this._onScheduled, this);
    panel.disposed.connect(this.dispose, this);
    // cells and their numbers are there only once the file is
    void panel.context.ready.then(() => this._startAgain());
    this._onKernel();
  }

  /** A cell was refused something, or was run again; carries the cells' ids. */
  get changed(): ISignal<this, ReadonlySet<string>> {
    return this._changed;
  }

  get isDisposed(): boolean {
    return this._disposed;
  }

  get kernelId(): string | undefined {
    return this._kernel?.id;
  }

  tally(cellId: string): ITally | undefined {
    return this._tallies.get(cellId);
  }

  get tallied(): Iterable<string> {
    return this._tallies.keys();
  }

  /** The cell that an entry of the kernel's record fell into, if it is still here. */
  cellOf(entry: IEntry): Cell | undefined {
    const id = this._cells.find(entry.seq, entry.cell, this._byCount());
    return id === undefined
      ? undefined
      : this.panel.content.widgets.find(cell => cell.model.id === id);
  }

  dispose(): void {
    if (!this._disposed) {
      this._disposed = true;
      this._watch?.dispose();
      this._kernel?.anyMessage.disconnect(this._onMessage, this);
      Signal.clearData(this);
    }
  }

  private _onKernel(): void {
    const kernel = this.panel.sessionContext.session?.kernel ?? undefined;
    if (kernel === this._kernel) {
      return;
    }
    this._kernel?.anyMessage.disconnect(this._onMessage, this);
    kernel?.anyMessage.connect(this._onMessage, this);
    this._watch?.dispose();
    this._watch = kernel && this._store.watch(kernel.id);
    if (kernel?.id !== this._kernel?.id) {
      this._cells = new Cells(kernel ? recallFloor(kernel.id) : 0);
    }
    this._kernel = kernel;
    this._startAgain();
  }

  private _onStatus(): void {
    const status = this._kernel?.status ?? '';
    if (this._kernel && RESTARTS.includes(status)) {
      // numbers in brackets begin again at 1
      const last = this._store.record(this._kernel.id)?.last ?? 0;
      this._cells.restarted(last);
      rememberFloor(this._kernel.id, last);
    }
  }

  private _onMessage(
    _: Kernel.IKernelConnection,
    { msg, direction }: Kernel.IAnyMessageArgs
  ): void {
    if (direction === 'send' && msg.header.msg_type === 'execute_request') {
      const cellId = (msg.metadata as { cellId?: unknown }).cellId;
      if (typeof cellId === 'string') {
        this._cells.sent(msg.header.msg_id, cellId);
        this._clear(cellId);
      }
    }
  }

  private _onScheduled(
    _: unknown,
    { notebook, cell }: { notebook: unknown; cell: Cell }
  ): void {
    if (notebook === this.panel.content) {
      this._clear(cell.model.id);
    }
  }

  private _clear(cellId: string): void {
    if (this._tallies.delete(cellId)) {
      this._changed.emit(new Set([cellId]));
    }
  }

  private _startAgain(): void {
    const before = [...this._tallies.keys()];
    this._tallies.clear();
    this._done = 0;
    const record = this._kernel && this._store.record(this._kernel.id);
    const changed = record ? this._tallyNew(record) : new Set<string>();
    before.forEach(id => changed.add(id));
    if (changed.size) {
      this._changed.emit(changed);
    }
  }

  private _onRecord(_: Store, kernelId: string): void {
    const record = this._store.record(kernelId);
    if (kernelId !== this._kernel?.id || !record) {
      return;
    }
    if (record.read < this._done) {
      this._startAgain(); // another kernel's record under the same id
      return;
    }
    const changed = this._tallyNew(record);
    if (changed.size) {
      this._changed.emit(changed);
    }
  }

  private _tallyNew(record: KernelRecord): Set<string> {
    const changed = new Set<string>();
    const { entries } = record;
    let byCount: ((n: number) => string | undefined) | undefined;
    for (let i = startAfter(entries, this._done); i < entries.length; i++) {
      const entry = entries[i];
      byCount ??= this._byCount();
      const id = isThrottled(entry)
        ? undefined
        : this._cells.findCurrent(entry.seq, entry.cell, byCount);
      if (id !== undefined) {
        const count = (this._tallies.get(id)?.count ?? 0) + 1;
        this._tallies.set(id, { count, newest: entry });
        changed.add(id);
      }
    }
    this._done = record.read;
    return changed;
  }

  private _byCount(): (executionCount: number) => string | undefined {
    const cells = new Map<number, string>();
    for (const { model } of this.panel.content.widgets) {
      const number =
        model.type === 'code' && (model as ICodeCellModel).executionCount;
      if (number) {
        cells.set(number, model.id);
      }
    }
    return executionCount => cells.get(executionCount);
  }

  private _kernel: Kernel.IKernelConnection | undefined;
  private _cells = new Cells();
  private _watch: IDisposable | undefined;
  private readonly _tallies = new Map<string, ITally>();
  private _done = 0;
  private readonly _changed = new Signal<this, ReadonlySet<string>>(this);
  private _disposed = false;
}

/** All of them. */
export class Notebooks {
  constructor(
    private readonly _app: JupyterFrontEnd,
    tracker: INotebookTracker | null,
    store: Store
  ) {
    const add = (panel: NotebookPanel) => {
      const notebook = new OpenNotebook(panel, store);
      this._open.add(notebook);
      panel.disposed.connect(() => this._open.delete(notebook));
      this._opened.emit(notebook);
    };
    tracker?.forEach(add);
    tracker?.widgetAdded.connect((_, panel) => add(panel));
  }

  get opened(): ISignal<this, OpenNotebook> {
    return this._opened;
  }

  get all(): readonly OpenNotebook[] {
    return [...this._open];
  }

  of(kernelId: string): OpenNotebook | undefined {
    return this.all.find(notebook => notebook.kernelId === kernelId);
  }

  /** Show the cell that an entry fell into; false where it is in no open notebook. */
  async goTo(kernelId: string, entry: IEntry): Promise<boolean> {
    for (const notebook of this.all) {
      const cell =
        notebook.kernelId === kernelId ? notebook.cellOf(entry) : undefined;
      if (cell) {
        const { content } = notebook.panel;
        this._app.shell.activateById(notebook.panel.id);
        content.deselectAll();
        content.activeCellIndex = content.widgets.indexOf(cell);
        await content.scrollToCell(cell, 'center');
        flash(cell.node);
        return true;
      }
    }
    return false;
  }

  private readonly _open = new Set<OpenNotebook>();
  private readonly _opened = new Signal<this, OpenNotebook>(this);
}

function flash(node: HTMLElement): void {
  node.classList.remove('jp-ModelArmor-found');
  void node.offsetWidth; // the animation begins again
  node.classList.add('jp-ModelArmor-found');
}

// A page that is reloaded no longer knows that the kernel was restarted.
function recallFloor(kernelId: string): number {
  return Number(sessionStorage.getItem(FLOOR + kernelId)) || 0;
}

function rememberFloor(kernelId: string, last: number): void {
  sessionStorage.setItem(FLOOR + kernelId, String(last));
}
