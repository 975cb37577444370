/** One row of the list: what was tried, on what, by whom, and how often. */

import { TranslationBundle } from '@jupyterlab/translation';
import * as React from 'react';

import {
  messageOf,
  operationOf,
  policyOf,
  processOf,
  resourceOf,
  timeOf
} from '../model/entry';
import { IRow } from '../model/listing';
import { basename, visible } from '../model/text';
import { actionWord, weightOf } from './common';

export const ROW_HEIGHT = 62;

export function Row(props: {
  row: IRow;
  kernel?: string;
  trans: TranslationBundle;
}): JSX.Element {
  const { row, trans } = props;
  const { entry } = row;
  const resource = resourceOf(entry) || messageOf(entry);
  const cells = row.cells.filter(number => number > 0);
  const by = [
    visible(basename(processOf(entry)), 60),
    visible(policyOf(entry), 80)
  ];
  return (
    <div className="jp-ModelArmor-line" data-weight={weightOf(entry)}>
      <div className="jp-ModelArmor-line1">
        <span className="jp-ModelArmor-pill" data-weight={weightOf(entry)}>
          {actionWord(entry, trans)}
        </span>
        <span className="jp-ModelArmor-operation">
          {visible(operationOf(entry), 40)}
        </span>
        {row.count > 1 && (
          <span
            className="jp-ModelArmor-times"
            title={trans._n('%1 time', '%1 times', row.count)}
          >
            ×{row.count.toLocaleString()}
          </span>
        )}
        {entry.expected && (
          <span
            className="jp-ModelArmor-cells"
            title={visible(entry.expected, 200)}
          >
            {trans.__('start-up, expected')}
          </span>
        )}
        {cells.length > 0 && (
          <span className="jp-ModelArmor-cells" title={trans.__('Cells')}>
            {cells
              .slice(-3)
              .map(number => `[${number}]`)
              .join(' ')}
            {cells.length > 3 && ' …'}
          </span>
        )}
        <time className="jp-ModelArmor-time" dateTime={timeOf(entry)}>
          {clock(timeOf(entry))}
        </time>
      </div>
      <div className="jp-ModelArmor-resource" title={visible(resource, 1000)}>
        {halves(resource).map((half, i) => (
          <bdi key={i}>{visible(half, 300)}</bdi>
        ))}
      </div>
      <div className="jp-ModelArmor-by jp-ModelArmor-faint">
        {props.kernel && <b>{visible(props.kernel, 60)} · </b>}
        {by.filter(Boolean).join(' · ')}
      </div>
    </div>
  );
}

/** A path's directory and what is in it; other text is whole. */
function halves(resource: string): string[] {
  const slash = resource.startsWith('/') ? resource.lastIndexOf('/') : 0;
  return slash > 0
    ? [resource.slice(0, slash), resource.slice(slash)]
    : [resource];
}

const CLOCK = new Intl.DateTimeFormat(undefined, {
  hour: '2-digit',
  minute: '2-digit',
  second: '2-digit',
  hourCycle: 'h23'
});

/** The time of day where the user is. */
export function clock(time: string): string {
  const date = new Date(time);
  return Number.isNaN(date.getTime()) ? visible(time, 40) : CLOCK.format(date);
}
