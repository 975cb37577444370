/** What is asked before anything changes. */

import { Dialog, ReactWidget, showDialog } from '@jupyterlab/apputils';
import { TranslationBundle } from '@jupyterlab/translation';
import * as React from 'react';

import { visible } from '../model/text';
import { IProfile, IProposal } from '../model/wire';
import { Hostile, Proposal } from './common';

/** As the server's profiles are named. */
const NAME = /^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/;

/** A dialog's body whose value is what was entered last. */
class Form<T> extends ReactWidget implements Dialog.IBodyWidget<T> {
  constructor(
    private _value: T,
    private readonly _form: (value: T, set: (value: T) => void) => JSX.Element
  ) {
    super();
    this.addClass('jp-ModelArmor-form');
    this.node.tabIndex = -1;
  }

  getValue(): T {
    return this._value;
  }

  protected render(): JSX.Element {
    const Body = () => {
      const [value, setValue] = React.useState(this._value);
      return this._form(value, changed => {
        this._value = changed;
        setValue(changed);
      });
    };
    return <Body />;
  }
}

/** Which profile to restart under; undefined where the user thought better of it. */
export async function askProfile(
  profiles: readonly IProfile[],
  current: string,
  kernel: string,
  trans: TranslationBundle
): Promise<string | undefined> {
  const body = new Form(current, (value, set) => (
    <>
      <p>
        {trans.__('What is in the kernel’s memory is lost. Kernel: %1', kernel)}
      </p>
      <fieldset className="jp-ModelArmor-profiles">
        <legend>{trans.__('Profile')}</legend>
        {profiles.map(profile => (
          <label key={profile.name} data-allowed={profile.allowed}>
            <input
              type="radio"
              name="profile"
              value={profile.name}
              checked={profile.name === value}
              disabled={!profile.allowed}
              onChange={() => set(profile.name)}
            />
            <span>
              <b>{visible(profile.title, 100)}</b>{' '}
              <code>{visible(profile.name, 100)}</code>
              {profile.own && <em> {trans.__('your own')}</em>}
              {!profile.allowed && (
                <em> {trans.__('not allowed on this server')}</em>
              )}
              <span className="jp-ModelArmor-faint">
                <Hostile text={profile.description} />
              </span>
            </span>
          </label>
        ))}
      </fieldset>
    </>
  ));
  const { button, value } = await showDialog({
    title: trans.__('Restart Under a Profile'),
    body,
    buttons: [
      Dialog.cancelButton(),
      Dialog.warnButton({ label: trans.__('Restart') })
    ]
  });
  return button.accept && value ? value : undefined;
}

/** Whether to restart for this; says what it means first. */
export async function confirmRestart(
  title: string,
  words: readonly string[],
  accept: string
): Promise<boolean> {
  const { button } = await showDialog({
    title,
    body: new Form(null, () => (
      <>
        {words.map(line => (
          <p key={line}>{line}</p>
        ))}
      </>
    )),
    buttons: [Dialog.cancelButton(), Dialog.warnButton({ label: accept })]
  });
  return button.accept;
}

export interface INewProfile {
  readonly name: string;
  readonly title: string;
}

/** The name of a profile of one's own, below all that it would change. */
export async function askName(
  proposal: IProposal,
  suggestion: INewProfile,
  problem: string,
  trans: TranslationBundle
): Promise<INewProfile | undefined> {
  const body = new Form(suggestion, (value, set) => (
    <>
      {proposal.base && (
        <p className="jp-ModelArmor-faint">
          {trans.__(
            'Starting from the profile %1.',
            visible(proposal.base, 100)
          )}{' '}
          {proposal.events > 0 &&
            trans._n(
              'It rests on %1 recorded operation.',
              'It rests on %1 recorded operations.',
              proposal.events
            )}
        </p>
      )}
      <Proposal proposal={proposal} trans={trans} open />
      <label className="jp-ModelArmor-field">
        {trans.__('Name')}
        <input
          className="jp-mod-styled"
          name="profile-name"
          value={value.name}
          maxLength={63}
          spellCheck={false}
          aria-invalid={!NAME.test(value.name)}
          aria-describedby="jp-ModelArmor-name-help"
          onChange={event => set({ ...value, name: event.target.value })}
        />
      </label>
      <p id="jp-ModelArmor-name-help" className="jp-ModelArmor-faint">
        {trans.__('Small letters, digits and hyphens, such as my-analysis.')}
      </p>
      <label className="jp-ModelArmor-field">
        {trans.__('Title')}
        <input
          className="jp-mod-styled"
          name="profile-title"
          value={value.title}
          maxLength={100}
          onChange={event => set({ ...value, title: event.target.value })}
        />
      </label>
      <p className="jp-ModelArmor-faint">
        {trans.__(
          'It is saved as a profile of your own. No kernel changes until you restart one under it.'
        )}
      </p>
      {problem && (
        <p role="alert" className="jp-ModelArmor-error">
          <Hostile text={problem} />
        </p>
      )}
    </>
  ));
  const { button, value } = await showDialog({
    title: trans.__('Save as a Profile of Your Own'),
    body,
    focusNodeSelector: '.jp-ModelArmor-form', // what changes is read first
    buttons: [
      Dialog.cancelButton(),
      Dialog.okButton({ label: trans.__('Save Profile') })
    ]
  });
  if (!button.accept || !value) {
    return undefined;
  }
  const entered = { name: value.name.trim(), title: value.title.trim() };
  return NAME.test(entered.name)
    ? entered
    : askName(
        proposal,
        entered,
        trans.__('%1 is not a name for a profile.', visible(entered.name, 100)),
        trans
      );
}
