import { visible, visibleLines } from '../text';
import {
  readExplanation,
  readPage,
  readPlan,
  readProposal,
  readState
} from '../wire';

const same = (text: string) => text;

describe('what the server says', () => {
  it.each([null, 7, 'x', [], { alerts: 'x' }, { alerts: [null, 3, {}] }])(
    'is a page without lines where it is %p',
    answer => {
      expect(readPage(answer, same).entries).toEqual([]);
    }
  );

  it('keeps only numbers that grow', () => {
    const lines = [3, 2, 3, -1, 4.5, '7', 5].map(seq => ({ seq, alert: {} }));
    const { entries } = readPage({ alerts: lines }, same);
    expect(entries.map(({ seq }) => seq)).toEqual([3, 5]);
  });

  it('bounds every text', () => {
    const alert = { Resource: 'x'.repeat(1_000_000) };
    const [entry] = readPage({ alerts: [{ seq: 1, alert }] }, same).entries;
    expect(String(entry.alert.Resource).length).toBe(10_000);
  });

  it('shares equal texts and leaves times alone', () => {
    const asked: string[] = [];
    const alert = { Resource: '/a', UpdatedTime: 'now', PID: 7 };
    readPage({ alerts: [{ seq: 1, alert }] }, text => {
      asked.push(text);
      return text;
    });
    expect(asked).toEqual(['/a']);
  });

  it('makes of an unknown attribution that it is unknown', () => {
    const cell = { attributed: '<b>', msg_id: [], execution_count: -1 };
    const [entry] = readPage({ alerts: [{ seq: 1, cell }] }, same).entries;
    expect(entry.cell).toEqual({ attributed: 'unknown' });
  });

  it('says of a kernel without a profile that it is not confined', () => {
    const state = readState({
      kernel_id: 'k',
      confined: 'yes',
      why: 'because'
    });
    expect([state.confined, state.why, state.profile]).toEqual([
      false,
      'because',
      undefined
    ]);
  });

  it('takes a name like __proto__ for a name', () => {
    const counts = JSON.parse('{"by_operation": {"__proto__": 3}, "total": 3}');
    expect(readState({ counts }).counts.by_operation.__proto__).toBe(3);
  });

  it('reads plans, proposals and explanations of any shape', () => {
    expect(readPlan(null)).toBeNull();
    expect(readPlan({ rules: [7] })!.rules[0].rule).toBe('');
    expect(readProposal(null)).toBeNull();
    expect(readProposal({ changes: [{ text: 'a' }] })!.changes).toEqual([
      { effect: '', text: 'a' }
    ]);
    const explanation = readExplanation({
      seq: 4,
      decision: { verdict: 'block', where: 'policy.yaml', line: 12 },
      proposal: null,
      why_not: 'it is a Block rule'
    });
    expect(explanation.where).toBe('policy.yaml:12');
    expect(explanation.proposal).toBeNull();
    expect(explanation.whyNot).toBe('it is a Block rule');
  });
});

describe('text that a program chose', () => {
  it('cannot hide or turn around what is shown', () => {
    expect(visible('/etc/\u202egnp.exe\u0000\n')).toBe(
      '/etc/\\u{202e}gnp.exe\\u{0000}\\u{000a}'
    );
  });

  it('is left as it is where it can be seen', () => {
    expect(visible('/données/été — 数据 🛡')).toBe('/données/été — 数据 🛡');
  });

  it('keeps its lines in a document', () => {
    expect(visibleLines('a:\n\tb: \u0007')).toBe('a:\n\tb: \\u{0007}');
  });
});
