/** The panel in the right sidebar. */

import { ITranslator } from '@jupyterlab/translation';
import { ReactWidget } from '@jupyterlab/ui-components';
import { Message } from '@lumino/messaging';
import * as React from 'react';

import { ANY, isAny } from '../model/filter';
import { IRow } from '../model/listing';
import { KernelRecord } from '../model/record';
import { visible } from '../model/text';
import { IModelArmor, PANEL_ID } from '../tokens';
import { Connection, Recording, Starting, Unheard } from './banners';
import { Hostile, IPanelProps, useSignals } from './common';
import { Detail } from './detail';
import { Filters } from './filters';
import { shieldIcon, shieldOffIcon } from './icons';
import { List } from './list';
import { Plan } from './plan';
import { Row, ROW_HEIGHT } from './row';

export class ViolationsPanel extends ReactWidget {
  constructor(
    private readonly _armor: IModelArmor,
    private readonly _translator: ITranslator
  ) {
    super();
    const trans = _translator.load('modelarmor');
    this.id = PANEL_ID;
    this.title.icon = shieldIcon;
    this.title.caption = trans.__('ModelArmor: violations and policy');
    this.node.setAttribute('role', 'region');
    this.node.setAttribute('aria-label', trans.__('ModelArmor'));
    this.addClass('jp-ModelArmor-panel');
  }

  protected render(): JSX.Element {
    return (
      <Panel armor={this._armor} trans={this._translator.load('modelarmor')} />
    );
  }

  protected onAfterShow(message: Message): void {
    super.onAfterShow(message);
    this._armor.panel.visible = true;
  }

  protected onAfterAttach(message: Message): void {
    super.onAfterAttach(message);
    this._armor.panel.visible = this.isVisible;
  }

  protected onAfterHide(message: Message): void {
    super.onAfterHide(message);
    this._armor.panel.visible = false;
  }

  protected onActivateRequest(message: Message): void {
    super.onActivateRequest(message);
    this._armor.panel.visible = true;
    this.node.querySelector<HTMLElement>('[role=tab][tabindex="0"]')?.focus();
  }
}

function Panel(props: IPanelProps): JSX.Element {
  const { armor, trans } = props;
  const { panel, store } = armor;
  const [tab, setTab] = React.useState<'violations' | 'plan'>('violations');
  useSignals([
    panel.changed,
    store.connectionChanged,
    store.kernelsChanged,
    store.recordChanged, // of kernels that are being started and in nothing's front
    armor.focus.changed
  ]);
  const record = panel.currentRecord;
  const showPlan = tab === 'plan' && record?.state?.confined;
  return (
    <>
      <Heading armor={armor} trans={trans} record={record} />
      <Connection {...props} />
      {record?.state?.recording && <Recording {...props} />}
      <Starting {...props} />
      <Unheard {...props} />
      <Tabs tab={tab} setTab={setTab} {...props} />
      {tab === 'violations' ? (
        <Violations {...props} />
      ) : showPlan ? (
        <Plan
          key={record.kernelId}
          kernelId={record.kernelId}
          state={record.state!}
          api={armor.api}
          trans={trans}
        />
      ) : (
        <p className="jp-ModelArmor-empty">
          {trans.__('No kernel that is confined is in front.')}
        </p>
      )}
    </>
  );
}

function Heading(
  props: IPanelProps & { record: KernelRecord | undefined }
): JSX.Element {
  const { armor, record, trans } = props;
  const state = record?.state;
  if (!state) {
    return (
      <header className="jp-ModelArmor-heading">
        <shieldOffIcon.react tag="span" width="20px" height="20px" />
        <div>
          <h2>{trans.__('No kernel')}</h2>
          <div className="jp-ModelArmor-faint">
            {trans.__('Open a notebook to see how its kernel is confined.')}
          </div>
        </div>
      </header>
    );
  }
  if (state.starting) {
    return (
      <header className="jp-ModelArmor-heading">
        <shieldIcon.react tag="span" width="20px" height="20px" />
        <div>
          <h2>{trans.__('Not running yet')}</h2>
        </div>
      </header>
    );
  }
  if (!state.confined) {
    return (
      <header className="jp-ModelArmor-heading jp-mod-unconfined">
        <shieldOffIcon.react tag="span" width="20px" height="20px" />
        <div>
          <h2>{trans.__('Not confined')}</h2>
          <div>
            <Hostile text={state.why} />
          </div>
          {armor.actions.canChangeKernel && (
            <div className="jp-ModelArmor-buttons">
              <button
                className="jp-ModelArmor-button"
                onClick={() => armor.actions.changeKernel()}
              >
                {trans.__('Change kernel…')}
              </button>
            </div>
          )}
        </div>
      </header>
    );
  }
  const posture = Object.entries(state.posture)
    .map(([section, action]) => `${section}: ${action}`)
    .join(' · ');
  return (
    <header className="jp-ModelArmor-heading">
      <shieldIcon.react tag="span" width="20px" height="20px" />
      <div>
        <h2>{visible(state.profile?.title ?? '', 100)}</h2>
        <div
          className="jp-ModelArmor-faint"
          title={trans.__('What happens to an operation that no rule names')}
        >
          {visible(posture)}
        </div>
        <div className="jp-ModelArmor-buttons">
          <button
            className="jp-ModelArmor-button"
            disabled={record.ended}
            onClick={() => armor.actions.restartUnder(record.kernelId)}
          >
            {trans.__('Restart under…')}
          </button>
          {!state.recording && (
            <button
              className="jp-ModelArmor-button"
              disabled={record.ended}
              title={trans.__(
                'Restart so that what the profile does not name happens, and is recorded'
              )}
              onClick={() => armor.actions.startRecording(record.kernelId)}
            >
              {trans.__('Record…')}
            </button>
          )}
        </div>
      </div>
    </header>
  );
}

function Tabs(
  props: IPanelProps & {
    tab: 'violations' | 'plan';
    setTab: (tab: 'violations' | 'plan') => void;
  }
): JSX.Element {
  const { armor, tab, setTab, trans } = props;
  const total = armor.panel.total();
  const names = {
    violations: total
      ? `${trans.__('Violations')} (${total.toLocaleString()})`
      : trans.__('Violations'),
    plan: trans.__('Policy')
  };
  const other = tab === 'plan' ? 'violations' : 'plan';
  return (
    <div
      role="tablist"
      className="jp-ModelArmor-tabs"
      onKeyDown={event => {
        if (event.key === 'ArrowLeft' || event.key === 'ArrowRight') {
          setTab(other);
          const tabs = event.currentTarget.querySelectorAll('button');
          tabs[other === 'violations' ? 0 : 1].focus();
        }
      }}
    >
      {(['violations', 'plan'] as const).map(name => (
        <button
          key={name}
          role="tab"
          aria-selected={name === tab}
          tabIndex={name === tab ? 0 : -1}
          onClick={() => setTab(name)}
        >
          {names[name]}
        </button>
      ))}
    </div>
  );
}

function Violations(props: IPanelProps): JSX.Element {
  const { armor, trans } = props;
  const { panel } = armor;
  const rows = panel.rows();
  const selected = panel.selected;
  // the row as it is now, where it grew since it was chosen
  const shown =
    selected && (rows.find(row => row.key === selected.key) ?? selected);
  const label = (kernelId: string) => armor.actions.nameOf(kernelId);
  return (
    <div className="jp-ModelArmor-violations">
      <Filters {...props} />
      <Counts {...props} rows={rows} />
      {rows.length === 0 && !panel.hasOlder ? (
        <Nothing {...props} />
      ) : (
        <List
          items={rows}
          rowHeight={ROW_HEIGHT}
          label={trans.__('Violations, newest first')}
          selected={shown?.key}
          onSelect={row => {
            panel.selected = row;
          }}
          onEnd={() => void panel.readOlder().catch(() => undefined)}
          render={row => (
            <Row
              row={row}
              kernel={panel.scope === 'all' ? label(row.kernelId) : undefined}
              trans={trans}
            />
          )}
          footer={
            panel.hasOlder ? (
              <p className="jp-ModelArmor-empty">
                <button
                  className="jp-ModelArmor-button"
                  onClick={() => void panel.readOlder().catch(() => undefined)}
                >
                  {trans.__('Read older ones')}
                </button>
              </p>
            ) : undefined
          }
        />
      )}
      {shown && (
        <Detail
          key={shown.key}
          row={shown}
          armor={armor}
          kernel={label(shown.kernelId)}
          trans={trans}
        />
      )}
    </div>
  );
}

function Nothing(props: IPanelProps): JSX.Element {
  const { armor, trans } = props;
  const { panel, store } = armor;
  let words: string;
  if (store.connection === 'new') {
    words = trans.__('Reading…');
  } else if (!isAny(panel.filter) && panel.total() > 0) {
    words = trans.__('Nothing that the filters let through.');
  } else if (
    panel.scope === 'current' &&
    panel.currentRecord?.state?.confined === false
  ) {
    words = trans.__(
      'Nothing is refused to this kernel, and nothing is recorded.'
    );
  } else if (panel.unheard().length > 0) {
    words = trans.__('Whether something was refused is not known here.');
  } else {
    words = trans.__('Nothing was refused.');
  }
  return <p className="jp-ModelArmor-empty">{words}</p>;
}

function Counts(props: IPanelProps & { rows: readonly IRow[] }): JSX.Element {
  const { armor, rows, trans } = props;
  const { panel } = armor;
  const { missed, suppressed, thresholds } = panel.absent();
  const shown = rows.reduce((sum, row) => sum + row.count, 0);
  const total = panel.total();
  const lines = trans._n('%1 kind', '%1 kinds', rows.length);
  return (
    <div className="jp-ModelArmor-counts">
      <span role="status" aria-live="polite">
        {shown < total
          ? trans.__(
              '%1 of %2 violations listed',
              shown.toLocaleString(),
              total.toLocaleString()
            )
          : trans._n('%1 violation', '%1 violations', total)}
        {panel.grouped && rows.length > 0 && `, ${lines}`}
      </span>
      {!isAny(panel.filter) && (
        <button
          className="jp-ModelArmor-link"
          onClick={() => {
            panel.filter = ANY;
          }}
        >
          {trans.__('Clear filters')}
        </button>
      )}
      <button
        className="jp-ModelArmor-link"
        disabled={total === 0}
        title={trans.__('Download the record as JSON lines')}
        onClick={() => void armor.actions.exportRecord()}
      >
        {trans.__('Export')}
      </button>
      {suppressed > 0 && (
        <div className="jp-ModelArmor-note">
          {trans._n(
            '%1 was only counted, in a flood.',
            '%1 were only counted, in a flood.',
            suppressed
          )}
        </div>
      )}
      {missed > 0 && (
        <div className="jp-ModelArmor-note">
          {trans._n(
            '%1 had left the server’s record before it was read here.',
            '%1 had left the server’s record before they were read here.',
            missed
          )}
        </div>
      )}
      {thresholds > 0 && (
        <div className="jp-ModelArmor-note">
          {trans.__(
            'The enforcer dropped alerts: see AlertThreshold in the list.'
          )}
        </div>
      )}
    </div>
  );
}
