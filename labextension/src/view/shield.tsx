/** The shield: in the status bar for the kernel in front, in each notebook's toolbar for its own. */

import { ITranslator, TranslationBundle } from '@jupyterlab/translation';
import { ReactWidget } from '@jupyterlab/ui-components';
import { ISignal } from '@lumino/signaling';
import * as React from 'react';

import { KernelRecord } from '../model/record';
import { Connection, Store } from '../model/store';
import { visible } from '../model/text';
import { describe, useSignals } from './common';
import { shieldAlertIcon, shieldIcon, shieldOffIcon } from './icons';

/** Whose shield it is. */
export interface IWhose {
  readonly kernelId: string | null | undefined;
  readonly changed: ISignal<any, any>;
}

export class ShieldWidget extends ReactWidget {
  constructor(
    private readonly _options: {
      store: Store;
      whose: IWhose;
      open: () => void;
      translator: ITranslator;
      /** Say the profile's name beside the shield. */
      named: boolean;
    }
  ) {
    super();
    this.addClass('jp-ModelArmor-shieldWidget');
  }

  protected render(): JSX.Element {
    const { translator, ...props } = this._options;
    return <Shield {...props} trans={translator.load('modelarmor')} />;
  }
}

function Shield(props: {
  store: Store;
  whose: IWhose;
  open: () => void;
  named: boolean;
  trans: TranslationBundle;
}): JSX.Element | null {
  const { store, whose, trans } = props;
  useSignals([
    store.recordChanged,
    store.kernelsChanged,
    store.connectionChanged,
    whose.changed
  ]);
  const record = whose.kernelId ? store.record(whose.kernelId) : undefined;
  const starting = store.starting[0];
  if (!record?.state && starting && props.named && !lost(store.connection)) {
    return <StartingShield {...props} record={starting} />;
  }
  if (
    store.connection === 'absent' ||
    (!record?.state && !lost(store.connection))
  ) {
    return null;
  }
  const words = lost(store.connection)
    ? lostWords(store.connection, trans)
    : describe(record, trans);
  const kind = kindOf(record, store.connection);
  const Icon =
    kind === 'unconfined' || kind === 'lost'
      ? shieldOffIcon
      : kind === 'violated'
        ? shieldAlertIcon
        : shieldIcon;
  const total = record?.violations ?? 0;
  return (
    <button
      className="jp-ModelArmor-shield"
      data-kind={kind}
      aria-label={`${words}. ${trans.__('Open the record')}`}
      title={words}
      onClick={props.open}
    >
      <Icon.react tag="span" width="16px" height="16px" />
      {props.named && <span>{name(record, store.connection, trans)}</span>}
      {kind !== 'lost' && !props.named && kind === 'unconfined' && (
        <span>{trans.__('not confined')}</span>
      )}
      {kind !== 'lost' && total > 0 && (
        <span className="jp-ModelArmor-count">{compact(total)}</span>
      )}
    </button>
  );
}

/** In the status bar, while no kernel is in front and one is being started. */
function StartingShield(props: {
  record: KernelRecord;
  open: () => void;
  trans: TranslationBundle;
}): JSX.Element {
  const words = describe(props.record, props.trans);
  return (
    <button
      className="jp-ModelArmor-shield"
      data-kind="starting"
      aria-label={`${words}. ${props.trans.__('Open the record')}`}
      title={words}
      onClick={props.open}
    >
      <shieldIcon.react tag="span" width="16px" height="16px" />
      <span>{props.trans.__('Starting…')}</span>
    </button>
  );
}

type Kind =
  'lost' | 'starting' | 'unconfined' | 'recording' | 'violated' | 'confined';

function kindOf(
  record: KernelRecord | undefined,
  connection: Connection
): Kind {
  if (lost(connection) || !record?.state) {
    return 'lost';
  }
  if (record.state.starting) {
    return 'starting';
  }
  if (!record.state.confined) {
    return 'unconfined';
  }
  if (record.state.recording) {
    return 'recording';
  }
  return record.violations > 0 ? 'violated' : 'confined';
}

function lost(connection: Connection): boolean {
  return (
    connection === 'signed-out' ||
    connection === 'forbidden' ||
    connection === 'offline'
  );
}

function lostWords(connection: Connection, trans: TranslationBundle): string {
  switch (connection) {
    case 'signed-out':
      return trans.__('ModelArmor: signed out');
    case 'forbidden':
      return trans.__('ModelArmor: not allowed to read the record');
    default:
      return trans.__('ModelArmor: the server does not answer');
  }
}

function name(
  record: KernelRecord | undefined,
  connection: Connection,
  trans: TranslationBundle
): string {
  if (connection === 'signed-out') {
    return trans.__('Signed out');
  }
  if (lost(connection) || !record?.state) {
    return trans.__('No word from the server');
  }
  if (record.state.starting) {
    return trans.__('Starting…');
  }
  if (!record.state.confined) {
    return trans.__('Not confined');
  }
  const profile = visible(record.state.profile?.name ?? '', 40);
  return record.state.recording ? trans.__('Recording: %1', profile) : profile;
}

function compact(total: number): string {
  return total < 10_000
    ? String(total)
    : new Intl.NumberFormat(undefined, { notation: 'compact' }).format(total);
}
