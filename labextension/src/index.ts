/**
 * What a confined kernel was refused, in JupyterLab and Notebook.
 *
 * `model/` knows no widget and no JupyterLab, `lab/` ties it to what is open, `view/` draws, and
 * the plugins here put the pieces in their places.
 */

import {
  ILayoutRestorer,
  JupyterFrontEnd,
  JupyterFrontEndPlugin
} from '@jupyterlab/application';
import { ICommandPalette, IToolbarWidgetRegistry } from '@jupyterlab/apputils';
import { IConsoleTracker } from '@jupyterlab/console';
import { INotebookTracker, NotebookPanel } from '@jupyterlab/notebook';
import { ISettingRegistry } from '@jupyterlab/settingregistry';
import { IStatusBar } from '@jupyterlab/statusbar';
import { ITranslator, nullTranslator } from '@jupyterlab/translation';

import { IDisposable } from '@lumino/disposable';

import { Actions } from './lab/actions';
import { Focus } from './lab/focus';
import { Notebooks, OpenNotebook } from './lab/notebooks';
import { Notifier } from './lab/notifier';
import { Settings } from './lab/settings';
import { PanelModel } from './model/panel';
import { Store } from './model/store';
import { RestApi } from './rest';
import { CommandIDs, IModelArmor, PANEL_ID } from './tokens';
import { Badges } from './view/badges';
import { ViolationsPanel } from './view/panel';
import { ShieldWidget } from './view/shield';
import { widget } from './widget';

const VIOLATION = 'https://schema.modelarmor.dev/jupyter/violation/v1';
const LAUNCH = 'https://schema.modelarmor.dev/jupyter/launch/v1';

/** The records and what can be done about them, for all other plugins. */
const core: JupyterFrontEndPlugin<IModelArmor> = {
  id: '@modelarmor/labextension:plugin',
  description: 'Keeps the records of confined kernels.',
  autoStart: true,
  provides: IModelArmor,
  optional: [ISettingRegistry, INotebookTracker, IConsoleTracker, ITranslator],
  activate: (
    app: JupyterFrontEnd,
    registry: ISettingRegistry | null,
    notebookTracker: INotebookTracker | null,
    consoleTracker: IConsoleTracker | null,
    translator: ITranslator | null
  ): IModelArmor => {
    const api = new RestApi(app.serviceManager.serverSettings);
    const store = new Store(api);
    const settings = new Settings();
    settings.changed.connect(() =>
      store.configure({
        rows: settings.rowsKept,
        interval: settings.pollInterval * 1000
      })
    );
    if (registry) {
      registry
        .load(core.id)
        .then(loaded => settings.connect(loaded))
        .catch(error => console.error('modelarmor: no settings', error));
    }
    const focus = new Focus(notebookTracker, consoleTracker);
    const notebooks = new Notebooks(app, notebookTracker, store);
    const panel = new PanelModel(store);
    let watch: IDisposable | undefined; // notebooks are watched anyway, consoles are not
    const follow = () => {
      panel.current = focus.kernelId;
      const before = watch;
      watch = focus.kernelId ? store.watch(focus.kernelId) : undefined;
      before?.dispose();
    };
    focus.changed.connect(() => {
      follow();
      void store.refresh();
    });
    follow();
    app.serviceManager.events.stream.connect((_, event) => {
      if (event.schema_id === VIOLATION) {
        store.ring(event);
      } else if (event.schema_id === LAUNCH) {
        store.ringForKernels();
      }
    });
    document.addEventListener('visibilitychange', () => {
      if (!document.hidden) {
        void store.refresh(); // it slept while nobody looked
      }
    });
    store.start();
    return {
      api,
      store,
      focus,
      notebooks,
      panel,
      settings,
      actions: new Actions(
        app,
        api,
        store,
        focus,
        notebooks,
        panel,
        translator ?? nullTranslator
      )
    };
  }
};

/** The panel and the commands. */
const panel: JupyterFrontEndPlugin<void> = {
  id: '@modelarmor/labextension:panel',
  description: 'The panel that shows what confined kernels were refused.',
  autoStart: true,
  requires: [IModelArmor],
  optional: [ICommandPalette, ILayoutRestorer, ITranslator],
  activate: (
    app: JupyterFrontEnd,
    armor: IModelArmor,
    palette: ICommandPalette | null,
    restorer: ILayoutRestorer | null,
    translator: ITranslator | null
  ): void => {
    const violations = new ViolationsPanel(armor, translator ?? nullTranslator);
    app.shell.add(violations, 'right', { rank: 900, type: 'ModelArmor' });
    restorer?.add(violations, PANEL_ID);

    const trans = (translator ?? nullTranslator).load('modelarmor');
    const { actions, focus, store } = armor;
    const confined = () => {
      const state = focus.kernelId && store.record(focus.kernelId)?.state;
      return state ? state.confined : false;
    };
    const recording = () =>
      confined() && store.record(focus.kernelId!)?.state?.recording === true;
    const { commands } = app;
    commands.addCommand(CommandIDs.open, {
      label: trans.__('Show Violations and Policy'),
      describedBy: {
        args: {
          type: 'object',
          properties: { cell: { type: 'number' } }
        }
      },
      execute: args => {
        if (typeof args.cell === 'number') {
          armor.panel.showCell(args.cell);
        }
        app.shell.activateById(PANEL_ID);
      }
    });
    commands.addCommand(CommandIDs.restart, {
      label: trans.__('Restart Kernel Under Profile…'),
      isEnabled: confined,
      execute: () => actions.restartUnder(focus.kernelId!)
    });
    commands.addCommand(CommandIDs.record, {
      label: trans.__('Restart Kernel in Record Mode…'),
      isEnabled: () => confined() && !recording(),
      execute: () => actions.startRecording(focus.kernelId!)
    });
    commands.addCommand(CommandIDs.stopRecording, {
      label: trans.__('Stop Record Mode…'),
      isEnabled: recording,
      execute: () => actions.stopRecording(focus.kernelId!)
    });
    commands.addCommand(CommandIDs.propose, {
      label: trans.__('Propose a Profile From What Was Recorded…'),
      isEnabled: confined,
      execute: () => actions.propose(focus.kernelId!)
    });
    commands.addCommand(CommandIDs.exportRecord, {
      label: trans.__('Export the Record of Violations'),
      isEnabled: confined,
      execute: () => actions.exportRecord(focus.kernelId!)
    });
    for (const command of Object.values(CommandIDs)) {
      palette?.addItem({ command, category: trans.__('ModelArmor') });
    }
    const enabledness = () => {
      for (const command of Object.values(CommandIDs)) {
        commands.notifyCommandChanged(command);
      }
    };
    focus.changed.connect(enabledness);
    store.kernelsChanged.connect(enabledness);
  }
};

/** The status bar's item; Notebook has no status bar. */
const status: JupyterFrontEndPlugin<void> = {
  id: '@modelarmor/labextension:status',
  description: 'How the kernel in front is confined, in the status bar.',
  autoStart: true,
  requires: [IModelArmor, IStatusBar],
  optional: [ITranslator],
  activate: (
    app: JupyterFrontEnd,
    armor: IModelArmor,
    statusBar: IStatusBar,
    translator: ITranslator | null
  ): void => {
    const item = new ShieldWidget({
      store: armor.store,
      whose: armor.focus,
      open: () => void app.commands.execute(CommandIDs.open),
      translator: translator ?? nullTranslator,
      named: true
    });
    statusBar.registerStatusItem(core.id, {
      item,
      align: 'left',
      rank: 3,
      isActive: () => armor.focus.session !== undefined,
      activeStateChanged: armor.focus.changed
    });
  }
};

/** The shield in the toolbar of each notebook, and the badges of its cells. */
const notebook: JupyterFrontEndPlugin<void> = {
  id: '@modelarmor/labextension:notebook',
  description: 'A shield for each notebook, and a badge for each cell.',
  autoStart: true,
  requires: [IModelArmor],
  optional: [IToolbarWidgetRegistry, ITranslator],
  activate: (
    app: JupyterFrontEnd,
    armor: IModelArmor,
    toolbar: IToolbarWidgetRegistry | null,
    translator: ITranslator | null
  ): void => {
    const trans = (translator ?? nullTranslator).load('modelarmor');
    const { notebooks, settings, store } = armor;
    toolbar?.addFactory<NotebookPanel>('Notebook', 'modelarmor', each => {
      const context = each.sessionContext;
      return new ShieldWidget({
        store,
        whose: {
          get kernelId() {
            return context.session?.kernel?.id;
          },
          changed: context.kernelChanged
        },
        open: () => void app.commands.execute(CommandIDs.open),
        translator: translator ?? nullTranslator,
        named: false
      });
    });
    const mark = (opened: OpenNotebook) => {
      const badges = new Badges(
        opened,
        cell => void app.commands.execute(CommandIDs.open, { cell }),
        trans
      );
      const update = () => {
        badges.enabled = settings.badges;
      };
      settings.changed.connect(update);
      opened.panel.disposed.connect(() => settings.changed.disconnect(update));
      update();
    };
    notebooks.all.forEach(mark);
    notebooks.opened.connect((_, opened) => mark(opened));
  }
};

/** Says once when something new is refused. */
const notifications: JupyterFrontEndPlugin<void> = {
  id: '@modelarmor/labextension:notifications',
  description: 'A notification for the first violation of a kind.',
  autoStart: true,
  requires: [IModelArmor],
  optional: [ITranslator],
  activate: (
    app: JupyterFrontEnd,
    armor: IModelArmor,
    translator: ITranslator | null
  ): void => {
    const notifier = new Notifier(armor.store, {
      enabled: () => armor.settings.notifications,
      seen: kernelId =>
        armor.panel.visible &&
        armor.panel.records.some(record => record.kernelId === kernelId),
      nameOf: kernelId => armor.actions.nameOf(kernelId),
      open: kernelId => {
        armor.panel.scope =
          kernelId === armor.focus.kernelId ? 'current' : 'all';
        void app.commands.execute(CommandIDs.open);
      },
      trans: (translator ?? nullTranslator).load('modelarmor')
    });
    armor.panel.changed.connect(() => notifier.dismissSeen());
  }
};

export default [core, panel, status, notebook, notifications, widget];
