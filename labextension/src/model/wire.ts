/**
 * What the server says, checked before anything else sees it.
 *
 * Paths, messages and names in it were chosen by whoever wrote the code that is confined. Every
 * field is therefore read as the type that it should have, or left out; nothing is ever markup.
 */

export type Attributed = 'time' | 'after' | 'startup' | 'unknown';

/** Where an alert came from, as far as the server can tell. */
export interface ICell {
  readonly attributed: Attributed;
  readonly msgId?: string;
  readonly executionCount?: number;
  /** Requests that ran at the same time. */
  readonly others?: readonly string[];
}

/** An alert under KubeArmor's field names; what is empty is left out. */
export type Alert = Readonly<Record<string, unknown>>;

/** One line of a record. */
export interface IEntry {
  readonly seq: number;
  readonly cell: ICell;
  readonly alert: Alert;
  /** Why it is no news, where every kernel is refused this as it starts. */
  readonly expected?: string;
}

export interface ICounts {
  readonly total: number;
  readonly suppressed: number;
  readonly by_action: Readonly<Record<string, number>>;
  readonly by_operation: Readonly<Record<string, number>>;
  readonly by_policy: Readonly<Record<string, number>>;
}

/** A stretch of a kernel's record. */
export interface IPage {
  readonly confined: boolean;
  readonly last: number;
  readonly missed: number;
  readonly counts?: ICounts;
  readonly entries: readonly IEntry[];
}

export interface IProfile {
  readonly name: string;
  readonly title: string;
  readonly description: string;
  readonly displayName: string;
  /** The user's own, which can be removed. */
  readonly own: boolean;
  /** Whether the administrator lets a kernel run under it. */
  readonly allowed: boolean;
}

/** How a kernel is confined, without its record. */
export interface IState {
  readonly kernelId: string;
  readonly confined: boolean;
  /** Why it is not confined; empty where it is. */
  readonly why: string;
  readonly profile?: IProfile;
  readonly posture: Readonly<Record<string, string>>;
  readonly recording: boolean;
  /** It is being started on a cluster; `why` says what is waited for. */
  readonly starting: boolean;
  /** Why its alerts do not arrive; empty where they do. */
  readonly alertsNotHeard: string;
  readonly executionState: string;
  readonly last: number;
  readonly counts: ICounts;
}

/** One rule, and how it is enforced on the machine that the kernel runs on. */
export interface IPlannedRule {
  readonly policy: string;
  readonly rule: string;
  readonly action: string;
  readonly place: string;
  readonly tier: string;
  readonly fidelity: string;
  readonly note: string;
}

export interface IPlan {
  readonly rules: readonly IPlannedRule[];
  readonly egress: unknown;
  readonly egressNote: string;
  readonly resources: Readonly<Record<string, unknown>>;
}

export interface IChange {
  readonly effect: string;
  readonly text: string;
}

export interface IWarning {
  readonly severity: string;
  readonly text: string;
}

/** A change of policy that the server worked out from its own record. */
export interface IProposal {
  readonly summary: string;
  /** The policy as YAML. */
  readonly document: string;
  readonly changes: readonly IChange[];
  readonly warnings: readonly IWarning[];
  /** The profile that it starts from; empty where the server does not say. */
  readonly base: string;
  /** How many recorded operations it rests on. */
  readonly events: number;
  /** What was recorded and is not permitted all the same. */
  readonly refused: readonly { readonly what: string; readonly why: string }[];
}

export interface IExplanation {
  readonly seq: number;
  readonly verdict: string;
  readonly why: string;
  readonly policy: string;
  readonly rule: string;
  readonly where: string;
  readonly severity: string;
  readonly proposal: IProposal | null;
  readonly whyNot: string;
}

export const NO_COUNTS: ICounts = {
  total: 0,
  suppressed: 0,
  by_action: {},
  by_operation: {},
  by_policy: {}
};

const MAX_TEXT = 10_000;
const MAX_DOCUMENT = 1_000_000;
const MAX_ITEMS = 10_000;

type Json = Readonly<Record<string, unknown>>;

export function object(value: unknown): Json {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
    ? (value as Json)
    : {};
}

export function array(value: unknown): readonly unknown[] {
  return Array.isArray(value) ? value.slice(0, MAX_ITEMS) : [];
}

export function text(value: unknown, limit = MAX_TEXT): string {
  if (typeof value === 'number' || typeof value === 'boolean') {
    return String(value);
  }
  return typeof value === 'string' ? value.slice(0, limit) : '';
}

export function count(value: unknown): number {
  return typeof value === 'number' && Number.isSafeInteger(value) && value > 0
    ? value
    : 0;
}

function tally(value: unknown): Record<string, number> {
  const answer: Record<string, number> = Object.create(null);
  for (const [name, n] of Object.entries(object(value)).slice(0, 1000)) {
    answer[name] = count(n);
  }
  return answer;
}

export function readCounts(value: unknown): ICounts {
  const source = object(value);
  return {
    total: count(source.total),
    suppressed: count(source.suppressed),
    by_action: tally(source.by_action),
    by_operation: tally(source.by_operation),
    by_policy: tally(source.by_policy)
  };
}

export function readProfile(value: unknown): IProfile | undefined {
  const source = object(value);
  const name = text(source.name);
  return name
    ? {
        name,
        title: text(source.title) || name,
        description: text(source.description),
        displayName: text(source.display_name),
        own: source.own === true,
        allowed: source.allowed !== false
      }
    : undefined;
}

export function readState(value: unknown): IState {
  const source = object(value);
  const posture = Object.create(null);
  for (const [section, action] of Object.entries(object(source.posture))) {
    posture[section] = text(action);
  }
  return {
    kernelId: text(source.kernel_id),
    confined: source.confined === true,
    why: text(source.why),
    profile: readProfile(source.profile),
    posture,
    recording: source.recording === true,
    starting: source.starting === true && source.confined !== true,
    alertsNotHeard: text(source.alerts_not_heard, 1000),
    executionState: text(source.execution_state),
    last: count(source.last),
    counts: readCounts(source.counts)
  };
}

const ATTRIBUTED: readonly string[] = ['time', 'after', 'startup', 'unknown'];

function readCell(value: unknown): ICell {
  const source = object(value);
  const attributed = text(source.attributed);
  const others = array(source.others)
    .slice(0, 20)
    .map(id => text(id, 200));
  return {
    attributed: ATTRIBUTED.includes(attributed)
      ? (attributed as Attributed)
      : 'unknown',
    msgId: text(source.msg_id, 200) || undefined,
    executionCount: count(source.execution_count) || undefined,
    others: others.length ? others : undefined
  };
}

/** @param intern gives one string for all that are equal, so that a flood stays small. */
export function readPage(
  value: unknown,
  intern: (text: string) => string
): IPage {
  const source = object(value);
  const entries: IEntry[] = [];
  let previous = 0;
  for (const item of array(source.alerts)) {
    const line = object(item);
    const seq = count(line.seq);
    if (seq <= previous) {
      continue; // numbers only ever grow
    }
    previous = seq;
    const alert: Record<string, unknown> = {};
    for (const [name, field] of Object.entries(object(line.alert))) {
      alert[name] =
        typeof field !== 'string' || name === 'UpdatedTime'
          ? field // each time is another
          : intern(text(field));
    }
    const expected = text(line.expected, 200) || undefined;
    entries.push({ seq, cell: readCell(line.cell), alert, expected });
  }
  return {
    confined: source.confined !== false,
    last: count(source.last),
    missed: count(source.missed),
    counts: source.counts === undefined ? undefined : readCounts(source.counts),
    entries
  };
}

export function readPlan(value: unknown): IPlan | null {
  if (value === null || typeof value !== 'object') {
    return null;
  }
  const source = object(value);
  return {
    rules: array(source.rules).map(item => {
      const rule = object(item);
      return {
        policy: text(rule.policy),
        rule: text(rule.rule),
        action: text(rule.action),
        place: text(rule.place),
        tier: text(rule.tier),
        fidelity: text(rule.fidelity),
        note: text(rule.note)
      };
    }),
    egress: source.egress,
    egressNote: text(source.egress_note),
    resources: object(source.resources)
  };
}

export function readProposal(value: unknown): IProposal | null {
  if (value === null || typeof value !== 'object') {
    return null;
  }
  const source = object(value);
  return {
    summary: text(source.summary),
    document: text(source.document, MAX_DOCUMENT),
    changes: array(source.changes).map(item => ({
      effect: text(object(item).effect),
      text: text(object(item).text)
    })),
    warnings: array(source.warnings).map(item => ({
      severity: text(object(item).severity),
      text: text(object(item).text)
    })),
    base: text(source.base),
    events: count(source.events),
    refused: array(source.refused).map(item => ({
      what: text(object(item).what),
      why: text(object(item).why)
    }))
  };
}

export function readExplanation(value: unknown): IExplanation {
  const source = object(value);
  const decision = object(source.decision);
  const where = text(decision.where);
  const line = count(decision.line);
  return {
    seq: count(source.seq),
    verdict: text(decision.verdict),
    why: text(decision.why),
    policy: text(decision.policy),
    rule: text(decision.rule),
    where: line && !where.endsWith(`:${line}`) ? `${where}:${line}` : where,
    severity: text(decision.severity),
    proposal: readProposal(source.proposal),
    whyNot: text(source.why_not)
  };
}
