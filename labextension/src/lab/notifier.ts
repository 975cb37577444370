/** One notification for the first violation of a kind in a kernel, and never one for each. */

import { Notification } from '@jupyterlab/apputils';
import { TranslationBundle } from '@jupyterlab/translation';

import { operationOf, resourceOf } from '../model/entry';
import { Notices } from '../model/notices';
import { Store } from '../model/store';
import { visible } from '../model/text';
import { IEntry } from '../model/wire';

/** How long to wait for what comes together, in milliseconds. */
const GATHER = 400;
const MAX_LISTED = 2;

export class Notifier {
  constructor(
    private readonly _store: Store,
    private readonly _options: {
      enabled: () => boolean;
      /** Whether the user sees the record of a kernel already. */
      seen: (kernelId: string) => boolean;
      nameOf: (kernelId: string) => string;
      open: (kernelId: string) => void;
      trans: TranslationBundle;
    }
  ) {
    _store.recordChanged.connect((_, kernelId) => this._onRecord(kernelId));
  }

  /** What the user sees in the panel needs no notification any more. */
  dismissSeen(): void {
    for (const [kernelId, { id }] of this._shown) {
      if (this._options.seen(kernelId)) {
        Notification.dismiss(id);
        this._shown.delete(kernelId);
      }
    }
  }

  private _onRecord(kernelId: string): void {
    const record = this._store.record(kernelId);
    if (!record || record.entries.length === 0) {
      return;
    }
    const fresh = this._notices.fresh(record);
    const { enabled, seen } = this._options;
    if (fresh.length === 0 || !enabled() || seen(kernelId)) {
      return;
    }
    const waiting = this._waiting.get(kernelId);
    if (waiting) {
      waiting.push(...fresh);
      return;
    }
    this._waiting.set(kernelId, fresh);
    setTimeout(() => this._notify(kernelId), GATHER);
  }

  private _notify(kernelId: string): void {
    const entries = this._waiting.get(kernelId) ?? [];
    this._waiting.delete(kernelId);
    const { nameOf, open, trans } = this._options;
    const shown = this._shown.get(kernelId);
    const earlier =
      shown && Notification.manager.has(shown.id) ? shown.entries : [];
    const all = [...earlier, ...entries];
    const message = [
      trans.__(
        'Violation in %1: %2',
        visible(tail(nameOf(kernelId), 30), 60),
        all.slice(0, MAX_LISTED).map(words).join('; ')
      ),
      all.length > MAX_LISTED
        ? trans._n(
            'and %1 more kind',
            'and %1 more kinds',
            all.length - MAX_LISTED
          )
        : ''
    ]
      .filter(Boolean)
      .join(' ');
    const options = {
      autoClose: 10_000,
      actions: [
        {
          label: trans.__('Show'),
          caption: trans.__('Show the record of violations'),
          callback: () => open(kernelId)
        }
      ]
    };
    if (earlier.length && shown) {
      shown.entries = all;
      Notification.update({ id: shown.id, message, ...options });
    } else {
      const id = Notification.emit(message, 'warning', options);
      this._shown.set(kernelId, { id, entries: all });
    }
  }

  private readonly _notices = new Notices();
  private readonly _waiting = new Map<string, IEntry[]>();
  private readonly _shown = new Map<
    string,
    { id: string; entries: IEntry[] }
  >();
}

function words(entry: IEntry): string {
  return [operationOf(entry), tail(resourceOf(entry), 36)]
    .map(part => visible(part, 40))
    .join(' ');
}

/** The end of a path tells more than its beginning; a notification has 140 characters. */
function tail(text: string, length: number): string {
  if (text.length <= length || !text.includes('/')) {
    return text;
  }
  const end = text.slice(1 - length);
  return `…${end.slice(Math.max(0, end.indexOf('/')))}`;
}
