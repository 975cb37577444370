/** Above the list: what its reader has to know of the kernel, and of what is not heard. */

import { PageConfig, URLExt } from '@jupyterlab/coreutils';
import * as React from 'react';

import { Hostile, IPanelProps } from './common';

/** So many kernels are named that are being started. */
const MAX_STARTING = 3;

export function Recording(props: IPanelProps): JSX.Element {
  const { armor, trans } = props;
  const kernelId = armor.panel.current!;
  return (
    <div className="jp-ModelArmor-banner" data-kind="recording" role="status">
      <p>
        {trans.__(
          'Recording. What the profile does not name happens and is recorded; what it blocks stays refused.'
        )}
      </p>
      <div className="jp-ModelArmor-buttons">
        <button
          className="jp-ModelArmor-button jp-mod-accept"
          onClick={() => armor.actions.propose(kernelId)}
        >
          {trans.__('Propose a profile…')}
        </button>
        <button
          className="jp-ModelArmor-button"
          onClick={() => armor.actions.stopRecording(kernelId)}
        >
          {trans.__('Stop recording')}
        </button>
      </div>
    </div>
  );
}

/** What kernels wait for that are being started: no notebook has them in front before. */
export function Starting(props: IPanelProps): JSX.Element | null {
  const { armor, trans } = props;
  const { starting } = armor.store;
  return starting.length === 0 ? null : (
    <div className="jp-ModelArmor-banner" data-kind="starting" role="status">
      {starting.slice(0, MAX_STARTING).map(({ kernelId, state }) => (
        <p key={kernelId}>
          {trans.__('A kernel is starting:')} <Hostile text={state!.why} />
        </p>
      ))}
      {starting.length > MAX_STARTING && (
        <p>
          {trans._n(
            '%1 more is starting.',
            '%1 more are starting.',
            starting.length - MAX_STARTING
          )}
        </p>
      )}
    </div>
  );
}

export function Unheard(props: IPanelProps): JSX.Element | null {
  const { armor, trans } = props;
  const reasons = armor.panel.unheard();
  return reasons.length === 0 ? null : (
    <div className="jp-ModelArmor-banner" data-kind="error" role="alert">
      <p>
        {trans.__(
          'What is refused is not shown here. Policies are in force all the same.'
        )}
      </p>
      {reasons.slice(0, 3).map(reason => (
        <p key={reason} className="jp-ModelArmor-faint">
          <Hostile text={reason} />
        </p>
      ))}
    </div>
  );
}

export function Connection(props: IPanelProps): JSX.Element | null {
  const { armor, trans } = props;
  const { connection } = armor.store;
  switch (connection) {
    case 'signed-out':
      return (
        <div className="jp-ModelArmor-banner" data-kind="error" role="alert">
          <p>
            {trans.__(
              'Signed out. What is shown is what was known before; kernels are still confined.'
            )}
          </p>
          <div className="jp-ModelArmor-buttons">
            <a
              className="jp-ModelArmor-button"
              href={loginUrl()}
              target="_blank"
              rel="noopener"
            >
              {trans.__('Sign in')}
            </a>
            <button
              className="jp-ModelArmor-button"
              onClick={() => void armor.store.refresh()}
            >
              {trans.__('Try again')}
            </button>
          </div>
        </div>
      );
    case 'forbidden':
      return (
        <div className="jp-ModelArmor-banner" data-kind="error" role="alert">
          <p>{trans.__('This server does not let you read the record.')}</p>
        </div>
      );
    case 'absent':
      return (
        <div className="jp-ModelArmor-banner" data-kind="error" role="alert">
          <p>
            {trans.__(
              'The server extension modelarmor_jupyter is not enabled on this server.'
            )}
          </p>
        </div>
      );
    case 'offline':
      return (
        <div className="jp-ModelArmor-banner" data-kind="error" role="alert">
          <p>{trans.__('The server does not answer. Trying again.')}</p>
        </div>
      );
    default:
      return null;
  }
}

function loginUrl(): string {
  const base = PageConfig.getBaseUrl();
  return URLExt.join(base, 'login');
}
