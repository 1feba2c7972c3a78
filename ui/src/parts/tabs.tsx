import { useId, useRef, type KeyboardEvent, type ReactNode } from "react";

/** Tabs as the ARIA practices describe them: one stop, arrows move. */
export function Tabs<Name extends string>({ label, names, chosen, onChoose, children }: { label: string; names: Record<Name, string>; chosen: Name; onChoose: (name: Name) => void; children: ReactNode }) {
  const id = useId();
  const list = useRef<HTMLDivElement>(null);
  const all = Object.keys(names) as Name[];
  const move = (event: KeyboardEvent) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const next = (all.indexOf(chosen) + step + all.length) % all.length;
    onChoose(all[next]!);
    list.current?.querySelectorAll<HTMLElement>('[role="tab"]')[next]?.focus();
  };
  return (
    <>
      <div ref={list} role="tablist" aria-label={label} onKeyDown={move} className="flex flex-wrap gap-x-1 border-b border-line px-3 pt-1">
        {all.map((name) => (
          <button
            key={name}
            type="button"
            role="tab"
            id={`${id}-${name}`}
            aria-selected={name === chosen}
            aria-controls={`${id}-panel`}
            tabIndex={name === chosen ? 0 : -1}
            onClick={() => onChoose(name)}
            className={`-mb-px min-h-10 border-b-2 px-3 text-sm ${name === chosen ? "border-accent font-medium" : "border-transparent text-muted hover:text-ink"}`}
          >
            {names[name]}
          </button>
        ))}
      </div>
      <div role="tabpanel" id={`${id}-panel`} aria-labelledby={`${id}-${chosen}`} className="min-w-0 p-5">{children}</div>
    </>
  );
}
