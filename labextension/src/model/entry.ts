/** What views and filters ask of one line of a record. */

import { IEntry } from './wire';

function field(entry: IEntry, name: string): string {
  const value = entry.alert[name];
  return typeof value === 'string' ? value : '';
}

export const operationOf = (entry: IEntry): string => field(entry, 'Operation');
export const actionOf = (entry: IEntry): string => field(entry, 'Action');
export const resourceOf = (entry: IEntry): string => field(entry, 'Resource');
export const policyOf = (entry: IEntry): string => field(entry, 'PolicyName');
export const messageOf = (entry: IEntry): string => field(entry, 'Message');
export const dataOf = (entry: IEntry): string => field(entry, 'Data');

/** When it happened, RFC 3339 in UTC; such texts sort as the times do. */
export const timeOf = (entry: IEntry): string => field(entry, 'UpdatedTime');

/** The program that did it; for `process` that is the one which started the other. */
export const processOf = (entry: IEntry): string =>
  field(entry, 'ProcessName') || field(entry, 'Source');

/** 1 to 10; 0 for the default posture, which has none. */
export function severityOf(entry: IEntry): number {
  const severity = Number(field(entry, 'Severity'));
  return Number.isFinite(severity) ? severity : 0;
}

export function tagsOf(entry: IEntry): readonly string[] {
  const tags = entry.alert.ATags;
  if (Array.isArray(tags)) {
    return tags.filter((tag): tag is string => typeof tag === 'string');
  }
  return field(entry, 'Tags')
    .split(',')
    .map(tag => tag.trim())
    .filter(Boolean);
}

/** Whether it tells that an enforcer threw alerts away, rather than of an operation. */
export function isThrottled(entry: IEntry): boolean {
  return (
    operationOf(entry) === 'AlertThreshold' ||
    typeof entry.alert.DroppingAlertsInterval === 'number'
  );
}

/** What is equal in two alerts when the same thing happened again. */
export function kindOf(entry: IEntry): string {
  return [
    operationOf(entry),
    actionOf(entry),
    resourceOf(entry),
    processOf(entry),
    policyOf(entry),
    messageOf(entry),
    entry.expected ?? ''
  ].join('\u0000');
}
