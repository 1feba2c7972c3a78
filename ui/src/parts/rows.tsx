// Thousands of rows of one height: only those near the window are drawn.
import { useCallback, useEffect, useLayoutEffect, useRef, useState, type ReactNode } from "react";

/** Rows drawn beyond each edge of the window, so that scrolling shows no blank. */
const BEYOND = 16;
/** What is drawn changes by so many rows at once: most frames of a scroll then change nothing. */
const STEP = 8;
/** Where this few rows are left below the window, more are asked for. */
const NEAR = 20;

interface Props<Item> {
  label: string;
  items: Item[];
  keyOf: (item: Item) => string;
  children: (item: Item) => ReactNode;
  /** The end of what there is comes near. */
  onNearEnd: () => void;
}

/** Each row is `row` (see style.css) high. For those who hear the list it has all of its rows. */
export function Rows<Item>({ label, items, keyOf, children, onNearEnd }: Props<Item>) {
  const list = useRef<HTMLUListElement>(null);
  const [[from, until], setRange] = useState<[number, number]>([0, BEYOND * 2]);
  const [height, setHeight] = useState(64);
  const [focused, setFocused] = useState<number | null>(null);
  const count = items.length;

  const look = useCallback(() => {
    const element = list.current;
    if (!element) return;
    const row = element.querySelector<HTMLElement>(":scope > li")?.offsetHeight ?? height;
    if (row !== height) setHeight(row);
    const first = Math.floor(-element.getBoundingClientRect().top / row);
    const last = first + Math.ceil(window.innerHeight / row);
    const next: [number, number] = [
      Math.max(0, Math.floor((first - BEYOND) / STEP) * STEP),
      Math.max(STEP, Math.ceil((last + BEYOND) / STEP) * STEP),
    ];
    setRange((before) => (before[0] === next[0] && before[1] === next[1] ? before : next));
    if (last + NEAR >= count) onNearEnd();
  }, [count, height, onNearEnd]);

  useLayoutEffect(look, [look]);
  useEffect(() => {
    let frame = 0;
    const later = () => {
      frame ||= requestAnimationFrame(() => {
        frame = 0;
        look();
      });
    };
    window.addEventListener("scroll", later, { passive: true });
    window.addEventListener("resize", later);
    return () => {
      cancelAnimationFrame(frame);
      window.removeEventListener("scroll", later);
      window.removeEventListener("resize", later);
    };
  }, [look]);

  const drawn = Array.from({ length: Math.max(0, Math.min(until, count) - from) }, (_, index) => from + index);
  // Whoever is at a row by keyboard does not lose it by scrolling on.
  if (focused !== null && focused < count && !drawn.includes(focused)) drawn.push(focused);
  return (
    <ul ref={list} aria-label={label} className="relative" style={{ height: count * height }}>
      {drawn.map((index) => (
        <li
          key={keyOf(items[index]!)}
          aria-setsize={count}
          aria-posinset={index + 1}
          onFocus={() => setFocused(index)}
          onBlur={() => setFocused(null)}
          className={index === count - 1 ? "row border-b-0!" : "row"}
          style={{ transform: `translateY(${index * height}px)` }}
        >
          {children(items[index]!)}
        </li>
      ))}
    </ul>
  );
}
