/** One violation in full, with what decided it and what would permit it. */

import { TranslationBundle } from '@jupyterlab/translation';
import { closeIcon } from '@jupyterlab/ui-components';
import * as React from 'react';

import {
  dataOf,
  isThrottled,
  messageOf,
  operationOf,
  policyOf,
  processOf,
  resourceOf,
  severityOf,
  tagsOf,
  timeOf
} from '../model/entry';
import { cellNumber } from '../model/filter';
import { IRow } from '../model/listing';
import { visible } from '../model/text';
import { ICell, IExplanation } from '../model/wire';
import { IModelArmor } from '../tokens';
import { actionWord, Hostile, Proposal } from './common';

export function Detail(props: {
  row: IRow;
  armor: IModelArmor;
  kernel: string;
  trans: TranslationBundle;
}): JSX.Element {
  const { row, armor, trans } = props;
  const { entry, kernelId } = row;
  const [goneFrom, setGoneFrom] = React.useState('');
  const goTo = async () => {
    const found = await armor.notebooks.goTo(kernelId, entry);
    setGoneFrom(found ? '' : row.key);
  };
  const times = row.count > 1 && trans.__('%1 times; the last:', row.count);
  const inCell = cellNumber(entry) > 0 || entry.cell.msgId !== undefined;
  const facts: [string, string][] = [
    [trans.__('Resource'), resourceOf(entry)],
    [trans.__('Process'), processOf(entry)],
    [trans.__('Policy'), policyOf(entry)],
    [trans.__('Message'), messageOf(entry)],
    [trans.__('Severity'), severityOf(entry) ? String(severityOf(entry)) : ''],
    [trans.__('Tags'), tagsOf(entry).join(', ')],
    [trans.__('Details'), dataOf(entry)],
    [trans.__('Process ID'), String(entry.alert.PID ?? '')],
    [trans.__('Cell'), cellWords(entry.cell, trans)],
    [trans.__('Expected'), entry.expected ?? ''],
    [trans.__('Kernel'), props.kernel],
    [trans.__('Time'), when(timeOf(entry))]
  ];
  return (
    <section
      className="jp-ModelArmor-detail"
      aria-label={trans.__('The violation that is selected')}
      onKeyDown={event => {
        if (event.key === 'Escape') {
          armor.panel.selected = undefined;
        }
      }}
    >
      <header>
        <h3>
          {visible(operationOf(entry), 60)} {actionWord(entry, trans)}
        </h3>
        <button
          className="jp-ModelArmor-close"
          aria-label={trans.__('Close the details')}
          onClick={() => {
            armor.panel.selected = undefined;
          }}
        >
          <closeIcon.react tag="span" width="16px" height="16px" />
        </button>
      </header>
      {times && <p className="jp-ModelArmor-faint">{times}</p>}
      <dl>
        {facts
          .filter(([, value]) => value !== '')
          .map(([name, value]) => (
            <React.Fragment key={name}>
              <dt>{name}</dt>
              <dd>
                <Hostile text={value} />
              </dd>
            </React.Fragment>
          ))}
      </dl>
      <div className="jp-ModelArmor-buttons">
        {inCell && (
          <button className="jp-ModelArmor-button" onClick={goTo}>
            {trans.__('Go to cell')}
          </button>
        )}
        <button
          className="jp-ModelArmor-button"
          onClick={() => armor.actions.copy(entry)}
        >
          {trans.__('Copy as JSON')}
        </button>
      </div>
      {goneFrom === row.key && (
        <p role="status">
          {trans.__('That cell is in no notebook that is open here.')}
        </p>
      )}
      {!isThrottled(entry) && (
        <Explain key={row.key} row={row} armor={armor} trans={trans} />
      )}
    </section>
  );
}

/** Asked for by hand: the server works it out anew each time. */
function Explain(props: {
  row: IRow;
  armor: IModelArmor;
  trans: TranslationBundle;
}): JSX.Element {
  const { row, armor, trans } = props;
  const { kernelId, entry } = row;
  const [state, setState] = React.useState<
    IExplanation | 'asking' | Error | undefined
  >();
  const ask = async () => {
    setState('asking');
    try {
      setState(await armor.api.explain(kernelId, entry.seq));
    } catch (error) {
      setState(error as Error);
    }
  };
  if (state === undefined || state === 'asking' || state instanceof Error) {
    return (
      <div className="jp-ModelArmor-explain">
        <button
          className="jp-ModelArmor-button"
          disabled={state === 'asking'}
          onClick={ask}
        >
          {state === 'asking'
            ? trans.__('Working it out…')
            : trans.__('Explain, and propose a change')}
        </button>
        {state instanceof Error && (
          <p role="alert" className="jp-ModelArmor-error">
            <Hostile text={state.message} />
          </p>
        )}
      </div>
    );
  }
  return (
    <div className="jp-ModelArmor-explain">
      <h4>{trans.__('Why')}</h4>
      <p>
        <Hostile text={state.why} />
      </p>
      {state.rule && (
        <p className="jp-ModelArmor-faint">
          <code>
            <Hostile text={state.rule} />
          </code>
          {state.where && (
            <>
              {' '}
              (<Hostile text={state.where} />)
            </>
          )}
        </p>
      )}
      <h4>{trans.__('The least that would permit it')}</h4>
      {state.proposal === null ? (
        <p>
          {state.whyNot ? (
            <Hostile text={state.whyNot} />
          ) : (
            trans.__('Nothing can be proposed.')
          )}
        </p>
      ) : (
        <>
          <Proposal proposal={state.proposal} trans={trans} />
          <div className="jp-ModelArmor-buttons">
            <button
              className="jp-ModelArmor-button jp-mod-accept"
              onClick={() =>
                armor.actions.save(kernelId, [entry.seq], state.proposal!)
              }
            >
              {trans.__('Save as a profile of your own…')}
            </button>
          </div>
        </>
      )}
    </div>
  );
}

function cellWords(cell: ICell, trans: TranslationBundle): string {
  const number = cell.executionCount ? `[${cell.executionCount}]` : '[ ]';
  switch (cell.attributed) {
    case 'time':
      return cell.others
        ? trans.__('%1, or another that ran at the same time', number)
        : trans.__('%1, by time', number);
    case 'after':
      return trans.__('after %1 had ended', number);
    case 'startup':
      return trans.__('none: while the kernel started');
    default:
      return trans.__('not known');
  }
}

function when(time: string): string {
  const date = new Date(time);
  return Number.isNaN(date.getTime()) ? time : date.toLocaleString();
}
