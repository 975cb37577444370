/** What the user set, with what holds until they do. */

import { ISettingRegistry } from '@jupyterlab/settingregistry';
import { ISignal, Signal } from '@lumino/signaling';

export class Settings {
  get changed(): ISignal<this, void> {
    return this._changed;
  }

  /** Seconds between two looks that nobody asked for. */
  get pollInterval(): number {
    return this._number('pollInterval', 15, 2, 3600);
  }

  /** Alerts of one kernel that a page holds. */
  get rowsKept(): number {
    return this._number('rowsKept', 20_000, 100, 200_000);
  }

  get notifications(): boolean {
    return this._composite.notifications !== false;
  }

  get badges(): boolean {
    return this._composite.badges !== false;
  }

  connect(settings: ISettingRegistry.ISettings): void {
    const take = () => {
      this._composite = settings.composite as Record<string, unknown>;
      this._changed.emit();
    };
    settings.changed.connect(take);
    take();
  }

  private _number(
    name: string,
    otherwise: number,
    low: number,
    high: number
  ): number {
    const value = this._composite[name];
    return typeof value === 'number'
      ? Math.min(high, Math.max(low, value))
      : otherwise;
  }

  private _composite: Record<string, unknown> = {};
  private readonly _changed = new Signal<this, void>(this);
}
