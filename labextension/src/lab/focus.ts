/** The kernel that the user works with: that of the notebook or console they were in last. */

import { ISessionContext } from '@jupyterlab/apputils';
import { IConsoleTracker } from '@jupyterlab/console';
import { INotebookTracker } from '@jupyterlab/notebook';
import { ISignal, Signal } from '@lumino/signaling';
import { Widget } from '@lumino/widgets';

export class Focus {
  constructor(
    notebooks: INotebookTracker | null,
    consoles: IConsoleTracker | null
  ) {
    notebooks?.currentChanged.connect((_, panel) =>
      this._set(panel, panel?.sessionContext)
    );
    consoles?.currentChanged.connect((_, panel) =>
      this._set(panel, panel?.sessionContext)
    );
    const first = notebooks?.currentWidget ?? consoles?.currentWidget;
    this._set(first, first?.sessionContext);
  }

  get changed(): ISignal<this, void> {
    return this._changed;
  }

  get kernelId(): string | null {
    return this.session?.session?.kernel?.id ?? null;
  }

  get session(): ISessionContext | undefined {
    return this._session?.isDisposed ? undefined : this._session;
  }

  private _set(
    widget: Widget | null | undefined,
    session: ISessionContext | undefined
  ): void {
    if (session !== this._session) {
      this._session?.kernelChanged.disconnect(this._emit, this);
      this._session = session;
      session?.kernelChanged.connect(this._emit, this);
      widget?.disposed.connect(this._emit, this);
      this._emit();
    }
  }

  private _emit(): void {
    this._changed.emit();
  }

  private readonly _changed = new Signal<this, void>(this);
  private _session: ISessionContext | undefined;
}
