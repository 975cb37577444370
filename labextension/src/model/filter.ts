/** Which lines of a record are shown. */

import {
  actionOf,
  messageOf,
  operationOf,
  policyOf,
  processOf,
  resourceOf,
  severityOf
} from './entry';
import { IEntry } from './wire';

export interface IFilter {
  /** Empty is any; otherwise one of these. */
  readonly operations: readonly string[];
  readonly actions: readonly string[];
  /** At least this; 0 is any, the default posture included. */
  readonly severity: number;
  /** The number in the cell's brackets; 0 is what fell into no cell; null is any. */
  readonly cell: number | null;
  /** Contained in the resource, the process, the policy or the message. */
  readonly text: string;
}

export const ANY: IFilter = {
  operations: [],
  actions: [],
  severity: 0,
  cell: null,
  text: ''
};

/** The number of the cell that a line fell into; 0 where it fell into none. */
export function cellNumber(entry: IEntry): number {
  const inCell =
    entry.cell.attributed === 'time' || entry.cell.attributed === 'after';
  return inCell ? (entry.cell.executionCount ?? 0) : 0;
}

export function isAny(filter: IFilter): boolean {
  return (
    filter.operations.length === 0 &&
    filter.actions.length === 0 &&
    filter.severity === 0 &&
    filter.cell === null &&
    filter.text === ''
  );
}

export function matcher(filter: IFilter): (entry: IEntry) => boolean {
  if (isAny(filter)) {
    return () => true;
  }
  const sought = filter.text.toLowerCase();
  const among = (values: readonly string[], value: string) =>
    values.length === 0 || values.includes(value);
  return entry =>
    among(filter.operations, operationOf(entry)) &&
    among(filter.actions, actionOf(entry)) &&
    severityOf(entry) >= filter.severity &&
    (filter.cell === null || cellNumber(entry) === filter.cell) &&
    (sought === '' ||
      [resourceOf, processOf, policyOf, messageOf].some(part =>
        part(entry).toLowerCase().includes(sought)
      ));
}

function strings(value: unknown): string[] {
  const values = Array.isArray(value) ? value : [value];
  return values
    .filter((item): item is string => typeof item === 'string' && item !== '')
    .slice(0, 100);
}

/** A filter that a kernel's widget asks for: any JSON, so that what makes no sense filters nothing. */
export function readFilter(value: unknown): IFilter {
  const source = (
    typeof value === 'object' && value !== null ? value : {}
  ) as Record<string, unknown>;
  const severity = Number(source.severity);
  const cell = source.cell;
  return {
    operations: strings(source.operation),
    actions: strings(source.action),
    severity: Number.isFinite(severity) ? severity : 0,
    cell: typeof cell === 'number' && Number.isInteger(cell) ? cell : null,
    text: typeof source.text === 'string' ? source.text.slice(0, 1000) : ''
  };
}
