import { useQuery, useQueryClient } from "@tanstack/react-query";
import { Link, Outlet, useNavigate, useRouterState } from "@tanstack/react-router";
import { lazy, Suspense, useEffect, useRef, useSyncExternalStore } from "react";
import { api, answer, home, reach } from "../api/client";
import { meQuery } from "../api/queries";
import { Icon } from "../parts/icon";
import { Toasts } from "../parts/toast";
import { Button, Notice } from "../parts/ui";
import { useShortcuts } from "../shortcuts";
import { text } from "../text";
import { useTheme, type Theme } from "../theme";

const Panels = lazy(() => import("../parts/palette"));

export function Logo() {
  return (
    <span className="flex items-center gap-2.5 text-lg font-semibold tracking-tight">
      <svg viewBox="0 0 32 32" width="28" height="28" aria-hidden="true">
        <rect width="32" height="32" rx="8" fill="#4f46e5" />
        <path d="M5 17h6l3-9 5 16 3-7h5" fill="none" stroke="#fff" strokeWidth="2.6" strokeLinecap="round" strokeLinejoin="round" />
      </svg>
      {text.product}
    </span>
  );
}

const item = "flex min-h-9 items-center rounded-lg px-3 text-sm text-muted hover:bg-sunken hover:text-ink";
const here = { className: "bg-tint font-medium text-accent!" };

const ACCOUNT = [
  ["/account/keys", text.nav.keys],
  ["/account/members", text.nav.members],
  ["/account/audit", text.nav.audit],
  ["/account/settings", text.nav.account_settings],
  ["/account/you", text.nav.you],
] as const;

/** Milliseconds between two looks whether the server is back. */
const BACK = 5_000;

/** What is on the page stays there while the server is away; that it may be out of date is said. */
function Away() {
  const away = useSyncExternalStore(reach.watch, reach.isAway);
  const client = useQueryClient();
  useEffect(() => {
    if (!away) return;
    const timer = setInterval(() => void client.invalidateQueries({ queryKey: meQuery.queryKey }), BACK);
    return () => {
      clearInterval(timer);
      void client.invalidateQueries();
    };
  }, [away, client]);
  return (
    <div role="status" className="mx-auto max-w-6xl px-4 not-empty:pt-5 sm:px-6">
      {away && <Notice tone="warn">{text.problem.away}</Notice>}
    </div>
  );
}

export function Shell() {
  const me = useQuery(meQuery);
  const [theme, setTheme] = useTheme();
  const client = useQueryClient();
  const navigate = useNavigate();
  const path = useRouterState({ select: (state) => state.location.pathname });
  const menu = useRef<HTMLDetailsElement>(null);
  useEffect(() => {
    if (menu.current) menu.current.open = false;
  }, [path]);
  const signOut = async () => {
    await api.DELETE("/api/session");
    client.clear();
    await navigate({ to: "/sign-in", search: {} });
  };
  const switchTo = async (account_id: string) => {
    await answer(api.PUT("/api/session/account", { body: { account_id } }));
    client.clear();
    // Nothing of the account before may stay on the page.
    window.location.assign(`${home}/`);
  };
  const [panel, setPanel] = useShortcuts();
  const others = me.data?.accounts ?? [];
  return (
    <div className="min-h-dvh">
      <a href="#content" onClick={(event) => { event.preventDefault(); document.getElementById("content")?.focus(); }} className="absolute top-2 left-2 z-50 -translate-y-20 rounded-lg bg-press px-4 py-2 text-white focus:translate-y-0">{text.skip}</a>
      <header className="sticky top-0 z-20 border-b border-line bg-surface">
        <nav aria-label={text.nav.main} className="mx-auto flex h-14 max-w-6xl items-center gap-1 px-4 sm:px-6">
          <Link to="/" className="mr-auto rounded-lg md:mr-4" aria-label={`${text.product}: ${text.nav.overview}`}><Logo /></Link>
          <div className="mr-auto hidden items-center gap-1 md:flex">
            <Link to="/" className={item} activeProps={here} activeOptions={{ exact: true }}>{text.nav.overview}</Link>
            <Link to="/sites" className={item} activeProps={here}>{text.nav.sites}</Link>
            <Link to="/help/signatures" className={item} activeProps={here}>{text.nav.help}</Link>
          </div>
          <Button look="quiet" small icon="search" aria-keyshortcuts="Control+K Meta+K" onClick={() => setPanel("palette")} className="mr-1 min-h-9! text-muted!"><span className="max-sm:sr-only">{text.palette.open}</span></Button>
          <details ref={menu} className="relative" onKeyDown={(event) => { if (event.key === "Escape" && menu.current) menu.current.open = false; }}>
            <summary className={`${item} list-none gap-2 border border-line`}>
              <span className="max-w-40 truncate max-sm:hidden">{me.data?.account.name}</span>
              <span className="sm:hidden">{text.nav.menu}</span>
              <Icon name="menu" />
            </summary>
            <div className="card absolute right-0 mt-2 grid w-60 gap-0.5 p-2 shadow-lg">
              <div className="grid gap-0.5 border-b border-line pb-2 md:hidden">
                <Link to="/" className={item} activeProps={here} activeOptions={{ exact: true }}>{text.nav.overview}</Link>
                <Link to="/sites" className={item} activeProps={here}>{text.nav.sites}</Link>
                <Link to="/help/signatures" className={item} activeProps={here}>{text.nav.help}</Link>
              </div>
              {others.length > 1 && (
                <label className="grid gap-1 border-b border-line px-3 pt-1 pb-3 text-sm text-muted">
                  {text.nav.switchTo}
                  <select value={me.data?.account.id} onChange={(event) => void switchTo(event.target.value)} className="w-full min-w-0 rounded-lg border border-edge bg-surface px-2 py-1 text-ink">
                    {others.map(({ id, name }) => <option key={id} value={id}>{name}</option>)}
                  </select>
                </label>
              )}
              {ACCOUNT.map(([to, name]) => <Link key={to} to={to} className={item} activeProps={here}>{name}</Link>)}
              <Link to="/operation" className={item} activeProps={here}>{text.nav.operation}</Link>
              <a href={`${home}/docs`} className={item}>{text.nav.reference}</a>
              <label className="flex items-center justify-between gap-2 px-3 py-1 text-sm text-muted">
                {text.nav.theme}
                <select value={theme} onChange={(event) => setTheme(event.target.value as Theme)} className="rounded-lg border border-edge bg-surface px-2 py-1 text-ink">
                  {(Object.entries(text.nav.themes) as [Theme, string][]).map(([value, name]) => <option key={value} value={value}>{name}</option>)}
                </select>
              </label>
              <Button look="quiet" small onClick={() => void signOut()} className="justify-start">{text.nav.signOut}</Button>
            </div>
          </details>
        </nav>
      </header>
      <Away />
      <main id="content" tabIndex={-1} className="mx-auto max-w-6xl px-4 pt-7 pb-24 outline-none sm:px-6">
        <Outlet />
      </main>
      {panel && <Suspense><Panels panel={panel} onPanel={setPanel} onTheme={setTheme} /></Suspense>}
      <Toasts />
    </div>
  );
}
