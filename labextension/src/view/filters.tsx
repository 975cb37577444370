/** Which violations are listed. */

import * as React from 'react';

import { IFilter } from '../model/filter';
import { visible } from '../model/text';
import { IPanelProps } from './common';

export function Filters(props: IPanelProps): JSX.Element {
  const { armor, trans } = props;
  const { panel } = armor;
  const { filter } = panel;
  const [open, setOpen] = React.useState(false);
  const search = React.useRef<HTMLInputElement>(null);
  // What is typed is not taken back, however long the next frame takes to come.
  React.useEffect(() => {
    if (search.current && search.current !== document.activeElement) {
      search.current.value = filter.text;
    }
  }, [filter.text]);
  // Of the filter as it is at the event, which may be newer than what is drawn.
  const change = (part: Partial<IFilter>) => {
    panel.filter = { ...panel.filter, ...part };
  };
  const choices = panel.choices();
  const active = [
    filter.operations.length,
    filter.actions.length,
    filter.severity,
    filter.cell !== null
  ].filter(Boolean).length;
  const one = (values: readonly string[]) => values[0] ?? '';
  return (
    <div
      className="jp-ModelArmor-filters"
      role="group"
      aria-label={trans.__('Filters')}
    >
      <div className="jp-ModelArmor-bar">
        <Select
          label={trans.__('Kernels')}
          value={panel.scope}
          options={[
            ['current', trans.__('This kernel')],
            ['all', trans.__('All kernels')]
          ]}
          onChange={value => {
            panel.scope = value === 'all' ? 'all' : 'current';
          }}
        />
        <input
          type="search"
          className="jp-ModelArmor-search"
          placeholder={trans.__('Search path, program, policy')}
          aria-label={trans.__('Search path, program, policy')}
          ref={search}
          defaultValue={filter.text}
          onChange={event =>
            change({ text: event.target.value.slice(0, 1000) })
          }
        />
        <button
          className="jp-ModelArmor-button"
          aria-expanded={open}
          onClick={() => setOpen(!open)}
        >
          {active ? trans.__('Filters (%1)', active) : trans.__('Filters')}
        </button>
      </div>
      {open && (
        <>
          <Select
            label={trans.__('Operation')}
            value={one(filter.operations)}
            options={[
              ['', trans.__('Any operation')],
              ...choices.operations.map(named)
            ]}
            onChange={value => change({ operations: value ? [value] : [] })}
          />
          <Select
            label={trans.__('Action')}
            value={one(filter.actions)}
            options={[
              ['', trans.__('Any action')],
              ...choices.actions.map(named)
            ]}
            onChange={value => change({ actions: value ? [value] : [] })}
          />
          <Select
            label={trans.__('Severity')}
            value={String(filter.severity)}
            options={[
              ['0', trans.__('Any severity')],
              ['5', trans.__('Severity 5 or more')],
              ['8', trans.__('Severity 8 or more')]
            ]}
            onChange={value => change({ severity: Number(value) })}
          />
          <Select
            label={trans.__('Cell')}
            value={filter.cell === null ? '' : String(filter.cell)}
            options={[
              ['', trans.__('Any cell')],
              ...choices.cells.map((cell): [string, string] => [
                String(cell),
                cell
                  ? trans.__('Cell [%1]', cell)
                  : trans.__('Outside of cells')
              ])
            ]}
            onChange={value =>
              change({ cell: value === '' ? null : Number(value) })
            }
          />
          <Select
            label={trans.__('Repetitions')}
            value={panel.grouped ? 'together' : 'each'}
            options={[
              ['together', trans.__('Repeats together')],
              ['each', trans.__('Each by itself')]
            ]}
            onChange={value => {
              panel.grouped = value === 'together';
            }}
          />
        </>
      )}
    </div>
  );
}

function named(value: string): [string, string] {
  return [value, visible(value, 60)];
}

function Select(props: {
  label: string;
  value: string;
  options: readonly (readonly [string, string])[];
  onChange: (value: string) => void;
}): JSX.Element {
  const { label, options, value } = props;
  const known = options.some(([option]) => option === value);
  return (
    <select
      className="jp-ModelArmor-select"
      aria-label={label}
      title={label}
      value={value}
      onChange={event => props.onChange(event.target.value)}
    >
      {options.map(([option, words]) => (
        <option key={option} value={option}>
          {words}
        </option>
      ))}
      {!known && <option value={value}>{visible(value, 60)}</option>}
    </select>
  );
}
