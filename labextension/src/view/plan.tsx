/** How a kernel is confined: each rule with what enforces it, the network and the resources. */

import { TranslationBundle } from '@jupyterlab/translation';
import * as React from 'react';

import { IApi } from '../model/api';
import { visible } from '../model/text';
import {
  array,
  IPlan,
  IPlannedRule,
  IState,
  object,
  text
} from '../model/wire';
import { Hostile } from './common';

/** Limits that count bytes. */
const BYTES: readonly string[] = ['memory', 'disk', 'file_size'];

export function Plan(props: {
  kernelId: string;
  state: IState;
  api: IApi;
  trans: TranslationBundle;
}): JSX.Element {
  const { kernelId, state, api, trans } = props;
  const [plan, setPlan] = React.useState<IPlan | null | Error | undefined>();
  React.useEffect(() => {
    let current = true;
    setPlan(undefined);
    api.plan(kernelId).then(
      answer => current && setPlan(answer),
      error => current && setPlan(error)
    );
    return () => {
      current = false;
    };
  }, [api, kernelId, state.profile?.name, state.recording]);
  if (plan === undefined) {
    return <p className="jp-ModelArmor-empty">{trans.__('Reading…')}</p>;
  }
  if (plan === null) {
    return (
      <p className="jp-ModelArmor-empty">
        {trans.__('This kernel has not started yet.')}
      </p>
    );
  }
  if (plan instanceof Error) {
    return (
      <p className="jp-ModelArmor-empty jp-ModelArmor-error" role="alert">
        <Hostile text={plan.message} />
      </p>
    );
  }
  return (
    <div className="jp-ModelArmor-plan" tabIndex={0}>
      {state.profile?.description && (
        <p>
          <Hostile text={state.profile.description} />
        </p>
      )}
      <h4>{trans.__('What no rule names')}</h4>
      <dl>
        {Object.entries(state.posture).map(([section, action]) => (
          <React.Fragment key={section}>
            <dt>{visible(section)}</dt>
            <dd>{visible(action)}</dd>
          </React.Fragment>
        ))}
      </dl>
      <h4>{trans.__('Network')}</h4>
      <p>
        <Hostile text={plan.egressNote || trans.__('Not limited')} />
      </p>
      {array(plan.egress).length > 0 && (
        <ul>
          {array(plan.egress).map((rule, i) => (
            <li key={i}>
              <Hostile text={destination(rule, trans)} />
            </li>
          ))}
        </ul>
      )}
      <h4>{trans.__('Resources')}</h4>
      <dl>
        {Object.entries(plan.resources)
          .filter(([, value]) => value !== null && value !== '')
          .map(([name, value]) => (
            <React.Fragment key={name}>
              <dt>{visible(name)}</dt>
              <dd>{visible(quantity(name, value))}</dd>
            </React.Fragment>
          ))}
      </dl>
      <h4>{trans._n('%1 rule', '%1 rules', plan.rules.length)}</h4>
      <Rules rules={plan.rules} trans={trans} />
    </div>
  );
}

function Rules(props: {
  rules: readonly IPlannedRule[];
  trans: TranslationBundle;
}): JSX.Element {
  const { rules, trans } = props;
  return (
    <table>
      <thead>
        <tr>
          <th scope="col">{trans.__('Rule')}</th>
          <th scope="col">{trans.__('Tier')}</th>
          <th scope="col">{trans.__('Fidelity')}</th>
        </tr>
      </thead>
      <tbody>
        {rules.map((rule, i) => (
          <tr key={i} data-action={rule.action}>
            <td>
              <span className="jp-ModelArmor-verb" data-action={rule.action}>
                {visible(rule.action, 20)}
              </span>{' '}
              <Hostile text={rule.rule} />
              <div className="jp-ModelArmor-faint">
                <Hostile text={rule.policy} />
                {rule.note && (
                  <>
                    {' — '}
                    <Hostile text={rule.note} />
                  </>
                )}
              </div>
            </td>
            <td>{visible(rule.tier, 40)}</td>
            <td data-fidelity={rule.fidelity}>{visible(rule.fidelity, 40)}</td>
          </tr>
        ))}
      </tbody>
    </table>
  );
}

function destination(rule: unknown, trans: TranslationBundle): string {
  const { cidr, except, ports } = object(rule);
  const holes = array(except).map(hole => text(hole));
  return [
    text(cidr) || trans.__('anywhere'),
    holes.length > 0 && trans.__('but for %1', holes.join(', ')),
    array(ports)
      .map(port =>
        array(port)
          .map(part => text(part))
          .filter(Boolean)
          .join(' ')
      )
      .join(', ')
  ]
    .filter(Boolean)
    .join(' · ');
}

const UNITS = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];

/** A limit for people: what counts bytes is in the thousands of millions. */
function quantity(name: string, value: unknown): string {
  if (typeof value !== 'number') {
    return text(value) || JSON.stringify(value);
  }
  let amount = value;
  let unit = 0;
  while (BYTES.includes(name) && amount >= 1024 && unit < UNITS.length - 1) {
    amount /= 1024;
    unit++;
  }
  const shown = Number(amount.toFixed(1)).toLocaleString();
  return BYTES.includes(name) ? `${shown} ${UNITS[unit]}` : shown;
}
