/** What can be done about a violation. Nothing here changes a policy without having been asked. */

import { JupyterFrontEnd } from '@jupyterlab/application';
import {
  Clipboard,
  ISessionContext,
  Notification,
  showErrorMessage
} from '@jupyterlab/apputils';
import { ITranslator, TranslationBundle } from '@jupyterlab/translation';

import { ApiError, IApi, Selection } from '../model/api';
import { PanelModel } from '../model/panel';
import { KernelRecord } from '../model/record';
import { Store } from '../model/store';
import { visible } from '../model/text';
import { IEntry, IProposal } from '../model/wire';
import {
  askName,
  askProfile,
  confirmRestart,
  INewProfile
} from '../view/dialogs';
import { Focus } from './focus';
import { Notebooks } from './notebooks';

const PAGE = 1000;
const CHANGE_KERNEL = 'notebook:change-kernel';

export class Actions {
  constructor(
    private readonly _app: JupyterFrontEnd,
    private readonly _api: IApi,
    private readonly _store: Store,
    private readonly _focus: Focus,
    private readonly _notebooks: Notebooks,
    private readonly _panel: PanelModel,
    translator: ITranslator
  ) {
    this._trans = translator.load('modelarmor');
  }

  get canChangeKernel(): boolean {
    return this._app.commands.hasCommand(CHANGE_KERNEL);
  }

  changeKernel(): void {
    void this._app.commands.execute(CHANGE_KERNEL);
  }

  /** What people call a kernel: the notebook that it runs, or the start of its id. */
  nameOf(kernelId: string): string {
    for (const {
      kernel,
      path,
      name
    } of this._app.serviceManager.sessions.running()) {
      if (kernel?.id === kernelId) {
        return path || name;
      }
    }
    return kernelId.slice(0, 8);
  }

  copy(entry: IEntry): void {
    Clipboard.copyToSystem(JSON.stringify(entry.alert, null, 2));
    Notification.success(this._trans.__('The alert was copied as JSON.'), {
      autoClose: 2000
    });
  }

  async restartUnder(kernelId: string, profile?: string): Promise<void> {
    await this._reporting(async () => {
      const state = this._store.record(kernelId)?.state;
      const chosen =
        profile ??
        (await askProfile(
          await this._api.profiles(),
          state?.profile?.name ?? '',
          visible(this.nameOf(kernelId), 100),
          this._trans
        ));
      if (chosen !== undefined) {
        await this._restart(kernelId, chosen, false);
      }
    });
  }

  async startRecording(kernelId: string): Promise<void> {
    const __ = this._trans;
    const sure = await confirmRestart(
      __.__('Restart in Record Mode?'),
      [
        __.__(
          'What the profile does not name is then not refused: it happens, and is recorded. What the profile blocks stays refused.'
        ),
        __.__(
          'Use it with code that you trust enough to see what it needs. A profile can be proposed from the recording.'
        ),
        __.__('What is in the kernel’s memory is lost.')
      ],
      __.__('Restart and Record')
    );
    if (sure) {
      await this._reporting(() => this._restart(kernelId, null, true));
    }
  }

  async stopRecording(kernelId: string): Promise<void> {
    const sure = await confirmRestart(
      this._trans.__('Stop Recording?'),
      [
        this._trans.__(
          'The kernel restarts, and its profile is enforced again. What is in its memory is lost; what was recorded stays in the record.'
        )
      ],
      this._trans.__('Restart')
    );
    if (sure) {
      await this._reporting(() => this._restart(kernelId, null, false));
    }
  }

  /** Show what a profile would look like that permits what was recorded, and offer to save it. */
  async propose(kernelId: string): Promise<void> {
    await this._reporting(async () => {
      const proposal = await this._api.preview(kernelId, null);
      await this.save(kernelId, null, proposal);
    });
  }

  /** Ask for a name below the change that `proposal` describes, and have the server save it. */
  async save(
    kernelId: string,
    seqs: Selection,
    proposal: IProposal
  ): Promise<void> {
    const base = this._store.record(kernelId)?.state?.profile;
    let entered: INewProfile | undefined = {
      name: suggest(proposal.base || base?.name || 'notebook'),
      title: ''
    };
    let problem = '';
    for (;;) {
      entered = await askName(proposal, entered, problem, this._trans);
      if (entered === undefined) {
        return;
      }
      try {
        const saved = await this._api.save(
          kernelId,
          seqs,
          entered.name,
          entered.title || entered.name
        );
        this._saved(kernelId, saved.name || entered.name, saved.directory);
        return;
      } catch (error) {
        problem = (error as Error).message; // such as a name that is taken
      }
    }
  }

  /** Download the records that the panel shows, or one kernel's, as JSON lines. */
  async exportRecord(kernelId?: string): Promise<void> {
    await this._reporting(async () => {
      const records = kernelId
        ? [this._store.record(kernelId)]
        : this._panel.records;
      const lines: string[] = [];
      for (const record of records) {
        for await (const entry of this._whole(record)) {
          lines.push(`${JSON.stringify(entry.alert)}\n`);
        }
      }
      const name = kernelId ?? this._panel.records[0]?.kernelId ?? 'kernels';
      download(lines, `modelarmor-${name.slice(0, 8)}.jsonl`);
    });
  }

  private async *_whole(
    record: KernelRecord | undefined
  ): AsyncGenerator<IEntry> {
    if (record === undefined) {
      return;
    }
    if (record.ended) {
      for (const entry of record.entries) {
        yield entry;
      }
      return;
    }
    let after = 0;
    let last = 1;
    while (after < last) {
      const page = await this._api.alerts(record.kernelId, after, PAGE);
      for (const entry of page.entries) {
        yield entry;
      }
      last = page.last;
      after = page.entries[page.entries.length - 1]?.seq ?? last;
    }
  }

  private async _restart(
    kernelId: string,
    profile: string | null,
    record: boolean
  ): Promise<void> {
    await this._api.restart(kernelId, profile, record);
    // JupyterLab forgets what the old process was asked only in a restart of its own.
    await this._session(kernelId)?.session?.kernel?.restart();
    await this._store.refresh();
  }

  private _session(kernelId: string): ISessionContext | undefined {
    const sessions = [
      ...this._notebooks.all.map(({ panel }) => panel.sessionContext),
      this._focus.session
    ];
    return sessions.find(each => each?.session?.kernel?.id === kernelId);
  }

  private _saved(kernelId: string, name: string, directory: string): void {
    const trans = this._trans;
    const message = trans.__(
      'Saved as the profile %1 in %2.',
      visible(name, 100),
      visible(directory, 300)
    );
    Notification.success(message, {
      autoClose: false,
      actions: [
        {
          label: trans.__('Restart Under It…'),
          callback: () => void this._restartUnderNew(kernelId, name)
        }
      ]
    });
  }

  private async _restartUnderNew(
    kernelId: string,
    name: string
  ): Promise<void> {
    const sure = await confirmRestart(
      this._trans.__('Restart Under %1?', visible(name, 100)),
      [this._trans.__('What is in the kernel’s memory is lost.')],
      this._trans.__('Restart')
    );
    if (sure) {
      await this.restartUnder(kernelId, name);
    }
  }

  private async _reporting(action: () => Promise<void>): Promise<void> {
    try {
      await action();
    } catch (error) {
      const { message } = error as Error;
      const words =
        error instanceof ApiError && error.status === 0
          ? this._trans.__('The server does not answer.')
          : visible(message, 2000);
      await showErrorMessage(this._trans.__('ModelArmor'), words);
    }
  }

  private readonly _trans: TranslationBundle;
}

function suggest(base: string): string {
  const mine = `my-${base.replace(/^my-/, '')}`;
  return mine.slice(0, 63).replace(/-+$/, '');
}

function download(lines: readonly string[], name: string): void {
  const blob = new Blob(lines as string[], { type: 'application/jsonl' });
  const link = document.createElement('a');
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
