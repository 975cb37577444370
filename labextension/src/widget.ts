/**
 * The view of `modelarmor_jupyter.widget.ViolationsWidget`.
 *
 * The kernel's side sends what to show (a filter and a number of lines) and nothing else that is
 * used: which kernel it is about is known from the session that the widget belongs to, and the
 * lines come from this page's own store. What the kernel reads back is a copy.
 */

import {
  JupyterFrontEnd,
  JupyterFrontEndPlugin
} from '@jupyterlab/application';
import {
  DOMWidgetModel,
  DOMWidgetView,
  IJupyterWidgetRegistry,
  ISerializers
} from '@jupyter-widgets/base';
import { ITranslator, nullTranslator } from '@jupyterlab/translation';
import { IDisposable } from '@lumino/disposable';

import { cellNumber, matcher, readFilter } from './model/filter';
import { operationOf, resourceOf, timeOf } from './model/entry';
import { KernelRecord } from './model/record';
import { visible } from './model/text';
import { IEntry } from './model/wire';
import { IModelArmor } from './tokens';
import { actionWord, weightOf } from './view/common';
import { clock } from './view/row';

const MODULE = '@modelarmor/labextension';
const VERSION = '0.1.0';
const DEFAULT_LIMIT = 100;
const MAX_LIMIT = 1000;
/** The kernel hears of changes at most this often, in milliseconds. */
const TELL_EVERY = 500;

export const widget: JupyterFrontEndPlugin<void> = {
  id: '@modelarmor/labextension:widget',
  description: 'The violations of a kernel as a widget in its notebook.',
  autoStart: true,
  requires: [IModelArmor],
  optional: [IJupyterWidgetRegistry, ITranslator],
  activate: (
    _: JupyterFrontEnd,
    armor: IModelArmor,
    registry: IJupyterWidgetRegistry | null,
    translator: ITranslator | null
  ): void => {
    registry?.registerWidget({
      name: MODULE,
      version: VERSION,
      exports: makeExports(armor, translator ?? nullTranslator)
    });
  }
};

function makeExports(armor: IModelArmor, translator: ITranslator) {
  const { store } = armor;
  const trans = translator.load('modelarmor');

  class ViolationsModel extends DOMWidgetModel {
    defaults() {
      return {
        ...super.defaults(),
        _model_name: 'ViolationsModel',
        _model_module: MODULE,
        _model_module_version: VERSION,
        _view_name: 'ViolationsView',
        _view_module: MODULE,
        _view_module_version: VERSION,
        violations: [],
        counts: {},
        filters: {},
        limit: DEFAULT_LIMIT
      };
    }

    initialize(attributes: any, options: any): void {
      super.initialize(attributes, options);
      const kernelId = this.kernelId;
      if (kernelId) {
        this._watch = store.watch(kernelId);
        store.recordChanged.connect(this._onRecord, this);
        this._soon();
      }
      this.on('change:filters change:limit', this._soon, this);
    }

    close(closed?: boolean): Promise<void> {
      store.recordChanged.disconnect(this._onRecord, this);
      this._watch?.dispose();
      clearTimeout(this._due);
      return super.close(closed);
    }

    /** The kernel of the session that this page rendered the widget for. */
    get kernelId(): string | undefined {
      const manager = this.widget_manager as {
        kernel?: { id?: unknown } | null;
      };
      const id = manager.kernel?.id;
      return typeof id === 'string' ? id : undefined;
    }

    get record(): KernelRecord | undefined {
      return this.kernelId ? store.record(this.kernelId) : undefined;
    }

    /** Newest first. */
    lines(): IEntry[] {
      const limit = Number(this.get('limit'));
      const most = Math.min(
        MAX_LIMIT,
        Math.max(1, Number.isInteger(limit) ? limit : DEFAULT_LIMIT)
      );
      const matches = matcher(readFilter(this.get('filters')));
      const entries = this.record?.entries ?? [];
      const found: IEntry[] = [];
      for (let i = entries.length - 1; i >= 0 && found.length < most; i--) {
        if (matches(entries[i])) {
          found.push(entries[i]);
        }
      }
      return found;
    }

    private _onRecord(_: unknown, kernelId: string): void {
      if (kernelId === this.kernelId) {
        this._soon();
      }
    }

    private _soon(): void {
      this._due ??= setTimeout(() => this._tell(), TELL_EVERY);
      this.trigger('modelarmor:changed');
    }

    private _tell(): void {
      this._due = undefined;
      const violations = this.lines().map(entry => ({
        seq: entry.seq,
        cell: cellNumber(entry) || null,
        alert: entry.alert
      }));
      const counts = this.record?.counts ?? {};
      // several pages may show the same widget: whoever has nothing new says nothing
      if (
        JSON.stringify(violations) !== JSON.stringify(this.get('violations')) ||
        JSON.stringify(counts) !== JSON.stringify(this.get('counts'))
      ) {
        this.set({ violations, counts });
        this.save_changes();
      }
    }

    static serializers: ISerializers = { ...DOMWidgetModel.serializers };

    private _watch: IDisposable | undefined;
    private _due: ReturnType<typeof setTimeout> | undefined;
  }

  class ViolationsView extends DOMWidgetView {
    render(): void {
      super.render();
      this.el.classList.add('jp-ModelArmor-widget');
      this.listenTo(this.model, 'modelarmor:changed', this._drawSoon);
      this._draw();
    }

    private _drawSoon(): void {
      if (!this._frame) {
        this._frame = requestAnimationFrame(() => {
          this._frame = 0;
          this._draw();
        });
      }
    }

    private _draw(): void {
      const model = this.model as ViolationsModel;
      const state = model.record?.state;
      const lines = model.lines();
      const total = model.record?.counts.total ?? 0;
      const caption = document.createElement('caption');
      caption.textContent = !model.kernelId
        ? trans.__('No kernel.')
        : state && !state.confined
          ? trans.__('This kernel is not confined.')
          : trans._n('%1 violation', '%1 violations', total);
      const table = document.createElement('table');
      table.append(caption, ...lines.map(entry => line(entry)));
      this.el.replaceChildren(table);
    }

    private _frame = 0;
  }

  function line(entry: IEntry): HTMLTableRowElement {
    const row = document.createElement('tr');
    row.dataset.weight = weightOf(entry);
    const number = cellNumber(entry);
    const parts = [
      clock(timeOf(entry)),
      actionWord(entry, trans),
      visible(operationOf(entry), 40),
      visible(resourceOf(entry), 300),
      number ? `[${number}]` : ''
    ];
    for (const part of parts) {
      row.insertCell().textContent = part;
    }
    return row;
  }

  return { ViolationsModel, ViolationsView };
}
