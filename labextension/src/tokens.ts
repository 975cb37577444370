/** What the plugins of this extension share. */

import { Token } from '@lumino/coreutils';

import { Actions } from './lab/actions';
import { Focus } from './lab/focus';
import { Notebooks } from './lab/notebooks';
import { IApi } from './model/api';
import { PanelModel } from './model/panel';
import { Store } from './model/store';
import { Settings } from './lab/settings';

export interface IModelArmor {
  readonly api: IApi;
  readonly store: Store;
  readonly focus: Focus;
  readonly notebooks: Notebooks;
  readonly panel: PanelModel;
  readonly actions: Actions;
  readonly settings: Settings;
}

export const IModelArmor = new Token<IModelArmor>(
  '@modelarmor/labextension:IModelArmor',
  'The records of confined kernels, and what can be done about them.'
);

export namespace CommandIDs {
  export const open = 'modelarmor:open-panel';
  export const restart = 'modelarmor:restart-under-profile';
  export const record = 'modelarmor:start-record-mode';
  export const stopRecording = 'modelarmor:stop-record-mode';
  export const propose = 'modelarmor:propose-profile';
  export const exportRecord = 'modelarmor:export-record';
}

export const PANEL_ID = 'modelarmor-violations';
