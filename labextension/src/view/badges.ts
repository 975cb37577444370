/** A line below the input of a cell that was refused something: how much, and the newest of it. */

import { TranslationBundle } from '@jupyterlab/translation';

import { ITally, OpenNotebook } from '../lab/notebooks';
import { cellNumber } from '../model/filter';
import { operationOf, resourceOf } from '../model/entry';
import { visible } from '../model/text';
import { actionWord, weightOf } from './common';
import { shieldAlertIcon } from './icons';

const BADGE = 'jp-ModelArmor-badge';

export class Badges {
  /** @param show called when a badge is clicked, with the number in the cell's brackets */
  constructor(
    private readonly _notebook: OpenNotebook,
    private readonly _show: (executionCount: number) => void,
    private readonly _trans: TranslationBundle
  ) {
    _notebook.changed.connect((_, cells) => this._draw(cells));
    this._notebook.panel.content.modelContentChanged.connect(() =>
      this._redrawLost()
    );
  }

  set enabled(enabled: boolean) {
    this._enabled = enabled;
    this._draw(new Set(this._notebook.tallied));
  }

  private _draw(cells: ReadonlySet<string>): void {
    for (const { model, node } of this._notebook.panel.content.widgets) {
      if (cells.has(model.id)) {
        const tally = this._enabled
          ? this._notebook.tally(model.id)
          : undefined;
        this._drawCell(node, tally);
      }
    }
  }

  /** A cell that was moved or undone has a new node. */
  private _redrawLost(): void {
    for (const id of this._notebook.tallied) {
      this._draw(new Set([id]));
    }
  }

  private _drawCell(node: HTMLElement, tally: ITally | undefined): void {
    let badge = node.querySelector<HTMLButtonElement>(`:scope > .${BADGE}`);
    if (tally === undefined) {
      badge?.remove();
      return;
    }
    if (badge === null) {
      badge = document.createElement('button');
      badge.className = BADGE;
      const icon = document.createElement('span');
      shieldAlertIcon.element({ container: icon, width: '14px' });
      badge.replaceChildren(icon, document.createElement('span'));
      node.insertBefore(
        badge,
        node.querySelector(':scope > .jp-Cell-outputWrapper')
      );
    }
    const trans = this._trans;
    const { newest, count } = tally;
    const what = [
      visible(operationOf(newest), 40),
      visible(resourceOf(newest), 200)
    ];
    const words =
      count === 1
        ? `${actionWord(newest, trans)}: ${what.join(' ')}`
        : trans.__(
            '%1 violations; the last: %2 %3',
            count.toLocaleString(),
            actionWord(newest, trans),
            what.join(' ')
          );
    badge.dataset.weight = weightOf(newest);
    badge.lastElementChild!.textContent = words;
    badge.title = trans.__('Show in the record');
    badge.onclick = () => this._show(cellNumber(newest));
  }

  private _enabled = true;
}
