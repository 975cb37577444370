/** A list of any length of which only what is on screen is in the document. */

import * as React from 'react';

export interface IListProps<T extends { readonly key: string }> {
  readonly items: readonly T[];
  readonly rowHeight: number;
  readonly label: string;
  readonly selected: string | undefined;
  readonly render: (item: T) => JSX.Element;
  readonly onSelect: (item: T) => void;
  /** The user scrolled to the end. */
  readonly onEnd: () => void;
  readonly footer?: JSX.Element;
}

const OVERSCAN = 6;

export function List<T extends { readonly key: string }>(
  props: IListProps<T>
): JSX.Element {
  const { items, rowHeight, selected } = props;
  const box = React.useRef<HTMLDivElement>(null);
  const [top, setTop] = React.useState(0);
  const [height, setHeight] = React.useState(0);
  const id = React.useId();

  React.useLayoutEffect(() => {
    const node = box.current!;
    const observer = new ResizeObserver(() => setHeight(node.clientHeight));
    observer.observe(node);
    setHeight(node.clientHeight);
    return () => observer.disconnect();
  }, []);

  // What is read stays where it is while newer lines come in above it.
  const anchor = React.useRef<{ key: string; index: number } | undefined>();
  React.useLayoutEffect(() => {
    const node = box.current!;
    const held = anchor.current;
    if (
      held &&
      node.scrollTop > rowHeight &&
      items[held.index]?.key !== held.key
    ) {
      const index = items.findIndex(item => item.key === held.key);
      if (index >= 0) {
        node.scrollTop += (index - held.index) * rowHeight;
      }
    }
  }, [items, rowHeight]);

  const first = Math.max(0, Math.floor(top / rowHeight) - OVERSCAN);
  const end = Math.min(
    items.length,
    Math.ceil((top + height) / rowHeight) + OVERSCAN
  );
  React.useLayoutEffect(() => {
    const index = Math.min(items.length - 1, Math.floor(top / rowHeight));
    anchor.current = index >= 0 ? { key: items[index].key, index } : undefined;
  });

  // Only who scrolls asks for more: a short list of many repeats is not read back to its start.
  const atEnd = top > 0 && end >= items.length;
  React.useEffect(() => {
    if (atEnd) {
      props.onEnd();
    }
  }, [atEnd, items]);

  const chosen =
    selected === undefined
      ? -1
      : items.findIndex(item => item.key === selected);

  const choose = (index: number) => {
    const to = Math.max(0, Math.min(items.length - 1, index));
    if (items.length === 0) {
      return;
    }
    const node = box.current!;
    if (to * rowHeight < node.scrollTop) {
      node.scrollTop = to * rowHeight;
    } else if ((to + 1) * rowHeight > node.scrollTop + node.clientHeight) {
      node.scrollTop = (to + 1) * rowHeight - node.clientHeight;
    }
    props.onSelect(items[to]);
  };

  const onKeyDown = (event: React.KeyboardEvent) => {
    const page = Math.max(1, Math.floor(height / rowHeight) - 1);
    const steps: Record<string, number> = {
      ArrowDown: chosen + 1,
      ArrowUp: chosen < 0 ? 0 : chosen - 1,
      PageDown: chosen + page,
      PageUp: chosen - page,
      Home: 0,
      End: items.length - 1
    };
    if (event.key in steps) {
      event.preventDefault();
      event.stopPropagation();
      choose(steps[event.key]);
    }
  };

  return (
    <div
      ref={box}
      className="jp-ModelArmor-list"
      role="listbox"
      aria-label={props.label}
      aria-activedescendant={chosen < 0 ? undefined : `${id}-${chosen}`}
      tabIndex={0}
      onKeyDown={onKeyDown}
      onScroll={event => setTop(event.currentTarget.scrollTop)}
    >
      <div
        style={{ height: items.length * rowHeight, position: 'relative' }}
        role="presentation"
      >
        {items.slice(first, end).map((item, i) => (
          <div
            key={item.key}
            id={`${id}-${first + i}`}
            role="option"
            aria-selected={item.key === selected}
            aria-posinset={first + i + 1}
            aria-setsize={items.length}
            className="jp-ModelArmor-row"
            style={{ height: rowHeight, top: (first + i) * rowHeight }}
            onClick={() => props.onSelect(item)}
          >
            {props.render(item)}
          </div>
        ))}
      </div>
      {props.footer}
    </div>
  );
}
