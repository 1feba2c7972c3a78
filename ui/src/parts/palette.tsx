// Where one can go and what one can do, by name; and the keys there are. Loaded when somebody asks for it.
import { useQueries, useQuery } from "@tanstack/react-query";
import { useNavigate, useParams } from "@tanstack/react-router";
import { useEffect, useId, useRef, useState, type Dispatch, type KeyboardEvent, type SetStateAction } from "react";
import { sitesQuery, webhooksQuery } from "../api/queries";
import { lettersOn, setLetters, type Panel } from "../shortcuts";
import { text } from "../text";
import type { Theme } from "../theme";
import { Check, Dialog } from "./ui";

const words = text.palette;
/** Sites whose webhooks are looked up for it. */
const SITES = 20;
/** What is shown at once: whoever looks for more types a letter more. */
const MOST = 50;

interface Props {
  panel: Panel;
  onPanel: Dispatch<SetStateAction<Panel | null>>;
  onTheme: (theme: Theme) => void;
}

export default function Panels({ panel, onPanel, onTheme }: Props) {
  // A dialog says that it closed a moment after it did: by then another may be wanted.
  const close = () => onPanel((now) => (now === panel ? null : now));
  return panel === "help" ? <Help onClose={close} /> : <Palette onClose={close} onTheme={onTheme} onHelp={() => onPanel("help")} />;
}

interface Command {
  id: string;
  name: string;
  /** What kind of thing it is, or where. */
  of: string;
  run: () => unknown;
}

function useCommands({ onTheme, onHelp }: { onTheme: (theme: Theme) => void; onHelp: () => void }): Command[] {
  const navigate = useNavigate();
  const { site: here } = useParams({ strict: false });
  const sites = useQuery(sitesQuery);
  const list = sites.data ?? [];
  const looked = [...list.filter(({ domain, id }) => domain === here || id === here), ...list.filter(({ domain, id }) => domain !== here && id !== here)].slice(0, SITES);
  const hooks = useQueries({ queries: looked.map((site) => webhooksQuery(site.domain)) });
  const nav = text.nav;
  const page = (name: string, to: "/" | "/sites" | "/sites/new" | "/start" | "/help/signatures" | "/account/keys" | "/account/members" | "/account/audit" | "/account/settings" | "/account/you" | "/operation"): Command => ({
    id: to, name, of: words.page, run: () => navigate({ to }),
  });
  const ofSite = here
    ? ([["/sites/$site/webhooks", nav.webhooks], ["/sites/$site/webhooks/new", text.webhooks.add], ["/sites/$site/deliveries", nav.deliveries], ["/sites/$site/goals", nav.goals], ["/sites/$site/install", nav.install], ["/sites/$site/settings", nav.settings]] as const).map(
        ([to, name]): Command => ({ id: to, name, of: here, run: () => navigate({ to, params: { site: here } }) }),
      )
    : [];
  return [
    ...ofSite,
    page(nav.overview, "/"),
    page(nav.sites, "/sites"),
    ...list.map(({ id, domain }): Command => ({ id: `site-${id}`, name: domain, of: words.site, run: () => navigate({ to: "/sites/$site/webhooks", params: { site: domain } }) })),
    ...looked.flatMap(({ domain }, index) =>
      (hooks[index]?.data ?? []).map(({ id, name }): Command => ({ id: `hook-${id}`, name, of: `${words.webhook} · ${domain}`, run: () => navigate({ to: "/sites/$site/webhooks/$webhook", params: { site: domain, webhook: id } }) })),
    ),
    page(text.sites.add, "/sites/new"),
    page(text.start.title, "/start"),
    page(nav.help, "/help/signatures"),
    page(nav.keys, "/account/keys"),
    page(nav.members, "/account/members"),
    page(nav.audit, "/account/audit"),
    page(nav.account_settings, "/account/settings"),
    page(nav.you, "/account/you"),
    page(nav.operation, "/operation"),
    ...(Object.entries(nav.themes) as [Theme, string][]).map(([theme, name]): Command => ({ id: `theme-${theme}`, name: `${nav.theme}: ${name}`, of: words.setting, run: () => onTheme(theme) })),
    { id: "help", name: words.helpTitle, of: words.setting, run: onHelp },
  ];
}

/** A list that narrows as one types: the focus stays in the field, arrows move what is chosen. */
function Palette({ onClose, onTheme, onHelp }: { onClose: () => void; onTheme: (theme: Theme) => void; onHelp: () => void }) {
  const id = useId();
  const [typed, setTyped] = useState("");
  const [chosen, setChosen] = useState(0);
  const list = useRef<HTMLUListElement>(null);
  const wanted = typed.toLowerCase().split(/\s+/).filter(Boolean);
  const found = useCommands({ onTheme, onHelp })
    .filter(({ name, of }) => wanted.every((word) => `${name} ${of}`.toLowerCase().includes(word)))
    .slice(0, MOST);
  const at = Math.min(chosen, found.length - 1);
  useEffect(() => {
    list.current?.children[at]?.scrollIntoView({ block: "nearest" });
  }, [at]);
  const run = (command: Command | undefined) => {
    if (!command) return;
    onClose();
    command.run();
  };
  const keys = (event: KeyboardEvent) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step && found.length) setChosen((at + step + found.length) % found.length);
    else if (event.key === "Enter") run(found[at]);
    else return;
    event.preventDefault();
  };
  return (
    <Dialog open title={words.title} onClose={onClose}>
      <input
        type="text"
        role="combobox"
        aria-label={words.title}
        aria-expanded="true"
        aria-controls={`${id}-list`}
        aria-activedescendant={found[at] ? `${id}-${at}` : undefined}
        aria-autocomplete="list"
        autoFocus
        autoComplete="off"
        spellCheck={false}
        placeholder={words.placeholder}
        value={typed}
        onChange={(event) => { setTyped(event.target.value); setChosen(0); }}
        onKeyDown={keys}
        className="field"
      />
      <ul ref={list} id={`${id}-list`} role="listbox" aria-label={words.title} tabIndex={-1} className={found.length ? "-mx-2 max-h-[50dvh] min-h-40 overflow-y-auto" : "hidden"}>
        {found.map((command, index) => (
          <li
            key={command.id}
            id={`${id}-${index}`}
            role="option"
            aria-selected={index === at}
            onClick={() => run(command)}
            onPointerMove={() => setChosen(index)}
            className={`flex cursor-pointer flex-wrap items-baseline justify-between gap-x-4 rounded-lg px-3 py-2 text-sm ${index === at ? "bg-tint text-accent" : ""}`}
          >
            <span className="min-w-0 font-medium [overflow-wrap:anywhere]">{command.name}</span>
            <span className={index === at ? "text-accent" : "text-muted"}>{command.of}</span>
          </li>
        ))}
      </ul>
      <p role="status" className={found.length ? "sr-only" : "text-sm text-muted"}>{found.length ? words.found(found.length) : words.none}</p>
    </Dialog>
  );
}

function Help({ onClose }: { onClose: () => void }) {
  const [letters, setOn] = useState(lettersOn);
  return (
    <Dialog open title={words.helpTitle} onClose={onClose}>
      <dl className="grid grid-cols-[auto_1fr] items-center gap-x-5 gap-y-2 text-sm">
        {words.keys.map(([keys, does]) => (
          <div key={does} className="contents">
            <dt className="flex gap-1">{keys.split(" ").map((key) => <kbd key={key} className="min-w-7 rounded-md border border-edge bg-sunken px-1.5 py-0.5 text-center font-mono text-xs">{key}</kbd>)}</dt>
            <dd className={letters || keys.includes("Ctrl") || keys === "Esc" ? "" : "text-muted line-through"}>{does}</dd>
          </div>
        ))}
      </dl>
      <Check label={words.letters} checked={letters} onChange={(event) => { setLetters(event.target.checked); setOn(event.target.checked); }} />
    </Dialog>
  );
}
