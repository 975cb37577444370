/** What several views are made of. */

import { TranslationBundle } from '@jupyterlab/translation';
import { ISignal } from '@lumino/signaling';
import * as React from 'react';

import { actionOf, isThrottled, severityOf } from '../model/entry';
import { KernelRecord } from '../model/record';
import { visible, visibleLines } from '../model/text';
import { IEntry, IProposal } from '../model/wire';
import { IModelArmor } from '../tokens';

/** What the parts of the panel are given. */
export interface IPanelProps {
  readonly armor: IModelArmor;
  readonly trans: TranslationBundle;
}

/** Text that somebody else chose. A text node, always. */
export function Hostile(props: { text: string }): JSX.Element {
  return <bdi>{visible(props.text)}</bdi>;
}

/** Render again when one of the signals was emitted, at most once a frame. */
export function useSignals(signals: readonly ISignal<any, any>[]): void {
  const [, again] = React.useReducer((n: number) => n + 1, 0);
  React.useEffect(() => {
    let due = 0;
    const soon = () => {
      due ||= requestAnimationFrame(() => {
        due = 0;
        again();
      });
    };
    signals.forEach(signal => signal.connect(soon));
    again(); // what happened before this effect ran
    return () => {
      cancelAnimationFrame(due);
      signals.forEach(signal => signal.disconnect(soon));
    };
  }, signals);
}

export type Weight = 'high' | 'medium' | 'low';

/** How grave a line is; KubeArmor's severities go from 1 to 10. */
export function weightOf(entry: IEntry): Weight {
  const severity = severityOf(entry);
  return severity >= 8 ? 'high' : severity >= 5 ? 'medium' : 'low';
}

/** The action of a line as a word for people. */
export function actionWord(entry: IEntry, trans: TranslationBundle): string {
  if (isThrottled(entry)) {
    return trans.__('not reported');
  }
  switch (actionOf(entry)) {
    case 'Block':
      return trans.__('refused');
    case 'Audit':
      return trans.__('recorded');
    default:
      return visible(actionOf(entry));
  }
}

/** One sentence on how a kernel is confined. */
export function describe(
  record: KernelRecord | undefined,
  trans: TranslationBundle
): string {
  const state = record?.state;
  if (!record || !state) {
    return trans.__('How this kernel is confined is not known yet');
  }
  if (state.starting) {
    return trans.__('This kernel is starting: %1', visible(state.why, 200));
  }
  if (!state.confined) {
    return trans.__('This kernel is not confined');
  }
  const title = visible(state.profile?.title ?? state.profile?.name ?? '');
  const counted = state.alertsNotHeard
    ? trans.__('what is refused is not shown')
    : trans._n('%1 violation', '%1 violations', record.violations);
  return state.recording
    ? trans.__('Recording under profile %1, %2', title, counted)
    : trans.__('Confined by profile %1, %2', title, counted);
}

/** A change of policy: in words first, then what could go wrong, then the document. */
export function Proposal(props: {
  proposal: IProposal;
  trans: TranslationBundle;
  open?: boolean;
}): JSX.Element {
  const { proposal, trans } = props;
  return (
    <div className="jp-ModelArmor-proposal">
      {proposal.summary && (
        <p className="jp-ModelArmor-summary">
          <Hostile text={proposal.summary} />
        </p>
      )}
      {proposal.warnings.length > 0 && (
        <ul
          className="jp-ModelArmor-warnings"
          aria-label={trans.__('Warnings')}
        >
          {proposal.warnings.map((warning, i) => (
            <li key={i} data-weight={warning.severity}>
              <span
                className="jp-ModelArmor-pill"
                data-weight={warning.severity}
              >
                {visible(warning.severity, 20)}
              </span>{' '}
              <Hostile text={warning.text} />
            </li>
          ))}
        </ul>
      )}
      <h4>{trans.__('What changes')}</h4>
      {proposal.changes.length === 0 ? (
        <p>{trans.__('Nothing: the profile permits all of it already.')}</p>
      ) : (
        <ul className="jp-ModelArmor-changes">
          {proposal.changes.map((change, i) => (
            <li key={i} data-effect={change.effect}>
              <Hostile text={change.text} />
            </li>
          ))}
        </ul>
      )}
      {proposal.refused.length > 0 && (
        <>
          <h4>{trans.__('Recorded, and left refused')}</h4>
          <ul className="jp-ModelArmor-refused">
            {proposal.refused.map((item, i) => (
              <li key={i}>
                <Hostile text={item.what} />
                <div className="jp-ModelArmor-faint">
                  <Hostile text={item.why} />
                </div>
              </li>
            ))}
          </ul>
        </>
      )}
      {proposal.document && (
        <details open={props.open}>
          <summary>{trans.__('The policy that is added (YAML)')}</summary>
          <pre className="jp-ModelArmor-yaml" tabIndex={0}>
            {visibleLines(proposal.document)}
          </pre>
        </details>
      )}
    </div>
  );
}
