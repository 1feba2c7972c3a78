import { useQuery, useQueryClient } from "@tanstack/react-query";
import { Link, useNavigate, useSearch } from "@tanstack/react-router";
import { useEffect, useRef, useState, type ReactNode } from "react";
import { api, answer, INBOX, type Problem, type TriggerBody } from "../api/client";
import { meQuery, sitesQuery, trafficQuery, webhookQuery } from "../api/queries";
import { ago, shortUrl, zone as here } from "../format";
import { useLive, useStream } from "../live";
import { Destination } from "../parts/destination";
import { useForm } from "../parts/form";
import { Icon } from "../parts/icon";
import { Inbox } from "../parts/inbox";
import { Places } from "../parts/places";
import { Secret } from "../parts/secret";
import { Test } from "../parts/test";
import { fresh, TriggerFields, trimmed } from "../parts/trigger-fields";
import { Asked, Button, ButtonLink, Head, Notice, ProblemNotice, SelectField, TextField } from "../parts/ui";
import { Traffic, Ways } from "../parts/ways";
import { ViewerNotice, Writes } from "../parts/writes";
import { keepSecret } from "../secrets";
import { STEPS, type StartSearch, type Step } from "../steps";
import { text } from "../text";
import { ZoneField } from "./sites";

const words = text.start;

/** From an account to a delivery that is seen, on one page. */
export function Start() {
  return <Writes instead={<><Head title={words.title} /><ViewerNotice /></>}><Steps /></Writes>;
}

function Steps() {
  const search = useSearch({ from: "/shell/start" });
  const navigate = useNavigate({ from: "/start" });
  const [url, setUrl] = useState<string>(INBOX);
  const [trigger, setTrigger] = useState<TriggerBody>(fresh("visitor_spike"));
  const [problem, setProblem] = useState<Problem | null>(null);
  const { site, webhook } = search;
  const step: Step = !site ? "site" : search.step === "test" && !webhook ? "webhook" : (search.step ?? "traffic");
  const go = (next: StartSearch) => void navigate({ search: (before) => ({ ...before, ...next }) });
  const at = STEPS.indexOf(step);

  // Whoever goes on by keyboard or ear is where the page is.
  const now = useRef<HTMLHeadingElement>(null);
  const first = useRef(true);
  useEffect(() => {
    if (!first.current) now.current?.focus();
    first.current = false;
  }, [step]);

  // Once it is made, it is what it was made as: also for whoever comes back.
  const made = useQuery({ ...webhookQuery(site ?? "", webhook ?? ""), enabled: !!site && !!webhook });
  const traffic = useQuery({ ...trafficQuery(site ?? ""), enabled: !!site });
  useLive(["traffic", site ?? ""]);
  const seen = !!traffic.data?.first_event_at;
  const types = webhook ? (made.data?.triggers ?? []).map(({ type }) => type) : [trigger.type];
  const summaries: Partial<Record<Step, string | undefined>> = {
    site,
    traffic: traffic.data && (seen ? words.seen : words.laterHint),
    webhook: webhook ? made.data && shortUrl(made.data.url).host : shortUrl(url).host,
    trigger: types.map((type) => text.triggers.names[type] ?? type).join(", "),
  };
  const bodies: Record<Step, ReactNode> = {
    site: <SiteStep onDone={(next) => go({ site: next, step: "traffic" })} />,
    traffic: site && <TrafficStep site={site} onDone={() => go({ step: "webhook" })} />,
    webhook: site && <WebhookStep site={site} url={url} problem={problem} onChange={setUrl} onDone={() => { setProblem(null); go({ step: "trigger" }); }} />,
    trigger: site && (
      <TriggerStep
        site={site}
        url={url}
        value={trigger}
        onChange={setTrigger}
        onDone={(id) => go({ webhook: id, step: "test" })}
        onUrlProblem={(found) => { setProblem(found); go({ step: "webhook" }); }}
      />
    ),
    test: site && webhook && <TestStep site={site} id={webhook} />,
  };
  return (
    <div className="max-w-3xl">
      <Head title={words.title} lead={words.lead} />
      <ol className="grid gap-3">
        {STEPS.map((name, index) => {
          const state = index < at ? "done" : index === at ? "now" : "later";
          // What was made is changed on its own page.
          const open = state === "done" && !webhook;
          const waits = name === "traffic" && !seen;
          const shape = state === "now" ? "bg-press text-white" : state === "later" ? "border border-edge text-muted" : waits ? "bg-warn-tint text-warn" : "bg-good-tint text-good";
          return (
            <li key={name} aria-current={state === "now" ? "step" : undefined} className={`card ${state === "later" ? "bg-transparent!" : ""}`}>
              <div className="flex min-h-14 flex-wrap items-center gap-x-3 gap-y-1 py-2.5 pr-3 pl-4 sm:pl-5">
                <span aria-hidden="true" className={`grid size-7 shrink-0 place-items-center rounded-full text-sm font-semibold ${shape}`}>
                  {state === "done" ? <Icon name={waits ? "clock" : "check"} /> : index + 1}
                </span>
                <h2 ref={state === "now" ? now : undefined} tabIndex={-1} className={`font-semibold outline-none ${state === "later" ? "text-muted" : ""}`}>
                  {words.steps[name]} <span className="sr-only">({words.states[state]})</span>
                </h2>
                {state === "done" && <span className="min-w-0 flex-1 truncate text-sm text-muted">{summaries[name]}</span>}
                {open && <Button small look="quiet" aria-label={words.change(words.steps[name])} onClick={() => go({ step: name, ...(name === "site" ? { site: undefined } : {}) } as StartSearch)}>{text.common.edit}</Button>}
              </div>
              {state === "now" && <div className="border-t border-line p-4 sm:p-5">{bodies[name]}</div>}
            </li>
          );
        })}
      </ol>
    </div>
  );
}

function SiteStep({ onDone }: { onDone: (site: string) => void }) {
  const sites = useQuery(sitesQuery);
  const me = useQuery(meQuery);
  useLive(["sites"]);
  const [fresh, setFresh] = useState(false);
  const [chosen, setChosen] = useState<string>();
  const mirrored = me.data?.directory === "plausible";
  return (
    <Asked query={sites} rows={1}>
      {(list) => {
        if (mirrored && list.length === 0) return <Notice tone="plain" role="status" title={words.noMirrored} />;
        if (list.length === 0 || fresh) return <div className="grid gap-5"><NewSite onDone={onDone} />{list.length === 0 && <Places />}</div>;
        const value = chosen ?? list[0]!.domain;
        return (
          <div className="grid gap-4">
            <SelectField label={words.known} value={value} onChange={(event) => setChosen(event.target.value)} options={list.map(({ domain }) => [domain, domain])} />
            <div className="flex flex-wrap justify-end gap-2">
              {!mirrored && <Button onClick={() => setFresh(true)}>{words.another}</Button>}
              <Button look="main" onClick={() => onDone(value)}>{words.useSite}</Button>
            </div>
          </div>
        );
      }}
    </Asked>
  );
}

function NewSite({ onDone }: { onDone: (site: string) => void }) {
  const client = useQueryClient();
  const [domain, setDomain] = useState("");
  const [timezone, setTimezone] = useState(here);
  const form = useForm(async () => {
    const { site } = await answer(api.POST("/api/sites", { body: { domain, timezone } }));
    await client.invalidateQueries({ queryKey: ["sites"] });
    onDone(site.domain);
  });
  return (
    <form onSubmit={form.submit} className="grid gap-5">
      <p className="text-muted">{words.site}</p>
      <ProblemNotice problem={form.rest} />
      <div className="grid items-start gap-5 sm:grid-cols-2">
        <TextField label={text.sites.domain} hint={text.sites.domainHint} errors={form.errors["domain"]} value={domain} onChange={(event) => setDomain(event.target.value)} required autoFocus autoComplete="off" spellCheck={false} />
        <div className="grid gap-1.5"><ZoneField value={timezone} onChange={setTimezone} errors={form.errors["timezone"]} /></div>
      </div>
      <div className="flex justify-end"><Button type="submit" look="main" busy={form.busy}>{words.addSite}</Button></div>
    </form>
  );
}

function TrafficStep({ site, onDone }: { site: string; onDone: () => void }) {
  const traffic = useQuery(trafficQuery(site));
  const seen = !!traffic.data?.first_event_at;
  return (
    <div className="grid gap-4">
      <p className="text-muted">{words.traffic}</p>
      <Traffic site={site} />
      <Ways domain={site} />
      <Places />
      <div className="flex justify-end"><Button look="main" onClick={onDone}>{seen ? words.goOn : words.later}</Button></div>
    </div>
  );
}

function WebhookStep({ site, url, problem, onChange, onDone }: { site: string; url: string; problem: Problem | null; onChange: (url: string) => void; onDone: () => void }) {
  return (
    <form onSubmit={(event) => { event.preventDefault(); onDone(); }} className="grid gap-5">
      <Destination site={site} url={url} errors={problem?.fields["url"]} format="json" onChange={onChange} />
      <div className="flex justify-end"><Button type="submit" look="main">{words.goOn}</Button></div>
    </form>
  );
}

interface TriggerStepProps {
  site: string;
  url: string;
  value: TriggerBody;
  onChange: (trigger: TriggerBody) => void;
  onDone: (webhook: string) => void;
  onUrlProblem: (problem: Problem) => void;
}

function TriggerStep({ site, url, value, onChange, onDone, onUrlProblem }: TriggerStepProps) {
  const client = useQueryClient();
  const form = useForm(async () => {
    const body = { url, name: shortUrl(url).host.slice(0, 255), generate_secret: true, triggers: [trimmed(value)] };
    try {
      const { webhook } = await answer(api.POST("/api/sites/{site}/webhooks", { params: { path: { site } }, body }));
      if (webhook.signing_secret) keepSecret(webhook.id, webhook.signing_secret);
      client.setQueryData(webhookQuery(site, webhook.id).queryKey, { ...webhook, signing_secret: null });
      await client.invalidateQueries({ queryKey: ["webhooks", site] });
      onDone(webhook.id);
    } catch (error) {
      const found = error as Problem;
      if (found.fields?.["url"]) onUrlProblem(found);
      throw error;
    }
  });
  const shown = (field: string) => form.errors[`triggers[0].${field}`];
  return (
    <form onSubmit={form.submit} className="grid gap-5">
      <p className="text-muted">{words.trigger}</p>
      <ProblemNotice problem={form.rest} />
      <TriggerFields site={site} value={value} onChange={onChange} errors={shown} />
      <div className="flex justify-end"><Button type="submit" look="main" busy={form.busy}>{words.create}</Button></div>
    </form>
  );
}

function TestStep({ site, id }: { site: string; id: string }) {
  const webhook = useQuery(webhookQuery(site, id));
  const [delivered, setDelivered] = useState(false);
  useStream(site);
  useLive(["inbox", site, id], ["webhook", site, id]);
  return (
    <Asked query={webhook}>
      {(known) => (
        <div className="grid gap-5">
          <p className="text-muted">{words.test}</p>
          {/* Whoever has an endpoint needs the secret before anything comes. */}
          {known.url !== INBOX && <Secret id={id} />}
          <Test site={site} webhook={id} onEnd={setDelivered} />
          {delivered && (
            <Notice tone="good" role="status" title={words.doneTitle}>
              <p>{words.done}</p>
              <div className="mt-3 flex flex-wrap gap-2">
                <ButtonLink to="/sites/$site/webhooks/$webhook" params={{ site, webhook: id }} small>{words.toWebhook}</ButtonLink>
                <ButtonLink to="/sites/$site/install" params={{ site }} small>{words.toTraffic}</ButtonLink>
              </div>
            </Notice>
          )}
          {known.url === INBOX && <Inbox site={site} webhook={known} />}
          {known.url === INBOX && <Secret id={id} />}
          <p className="text-sm text-muted"><Link to="/help/signatures" className="link">{text.webhooks.secretHelp}</Link> · {text.webhooks.added} {ago(known.inserted_at)}</p>
        </div>
      )}
    </Asked>
  );
}
