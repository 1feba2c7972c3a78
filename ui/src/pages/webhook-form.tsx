import { useQuery, useQueryClient } from "@tanstack/react-query";
import { Link, useNavigate, useParams } from "@tanstack/react-router";
import { useState } from "react";
import { api, answer, INBOX, type TriggerBody, type Webhook, type WebhookBody } from "../api/client";
import { webhookQuery } from "../api/queries";
import { shortUrl } from "../format";
import { Destination } from "../parts/destination";
import { useForm } from "../parts/form";
import { fresh, TriggerFields, trimmed } from "../parts/trigger-fields";
import { Asked, Button, ButtonLink, Card, Head, ProblemNotice, SelectField, TextField } from "../parts/ui";
import { ViewerNotice, Writes } from "../parts/writes";
import { keepSecret } from "../secrets";
import { text } from "../text";

const words = text.webhooks;
type Signing = keyof typeof words.secrets;

export function NewWebhook() {
  const { site } = useParams({ from: "/shell/sites/$site/webhooks/new" });
  return (
    <>
      <Head title={words.newTitle} above={<Link to="/sites/$site/webhooks" params={{ site }} className="link">{words.title}</Link>} />
      <Writes instead={<ViewerNotice />}><WebhookForm site={site} /></Writes>
    </>
  );
}

export function EditWebhook() {
  const { site, webhook: id } = useParams({ from: "/shell/sites/$site/webhooks/$webhook/edit" });
  const webhook = useQuery({ ...webhookQuery(site, id), staleTime: Infinity });
  return (
    <>
      <Head title={words.editTitle} above={<Link to="/sites/$site/webhooks/$webhook" params={{ site, webhook: id }} className="link">{webhook.data?.name ?? words.title}</Link>} />
      <Asked query={webhook}>{(known) => <Writes instead={<ViewerNotice />}><WebhookForm site={site} known={known} /></Writes>}</Asked>
    </>
  );
}

interface Header {
  name: string;
  value: string;
}

/** A trigger that is being written; the key stays with it when another is taken out. */
interface Draft {
  key: number;
  body: TriggerBody;
}

function WebhookForm({ site, known }: { site: string; known?: Webhook }) {
  const client = useQueryClient();
  const navigate = useNavigate();
  const [url, setUrl] = useState(known?.url ?? "");
  const [name, setName] = useState(known?.name ?? "");
  const [named, setNamed] = useState(!!known);
  const [signing, setSigning] = useState<Signing>("generate");
  const [secret, setSecret] = useState("");
  const [triggers, setTriggers] = useState<Draft[]>([{ key: 0, body: fresh("visitor_spike") }]);
  const [format, setFormat] = useState(known?.format ?? "json");
  const [headers, setHeaders] = useState<Header[]>(Object.keys(known?.headers ?? {}).map((name) => ({ name, value: words.keptValue })));
  const [retry, setRetry] = useState("");
  const [rate, setRate] = useState(known?.rate_limit?.toString() ?? "");
  const host = url ? shortUrl(url).host : "";

  const form = useForm(async () => {
    const sent = Object.fromEntries(headers.filter(({ name }) => name.trim()).map(({ name, value }) => [name.trim(), value]));
    const body: WebhookBody = {
      url,
      name,
      format,
      headers: sent,
      rate_limit: rate ? Number(rate) : null,
      ...(retry ? { retry_schedule: retry } : {}),
      ...(known ? {} : { triggers: triggers.map(({ body }) => trimmed(body)) }),
      ...(!known && signing === "generate" ? { generate_secret: true } : {}),
      ...(!known && signing === "own" ? { secret } : {}),
    };
    const { webhook } = known
      ? await answer(api.PATCH("/api/sites/{site}/webhooks/{id}", { params: { path: { site, id: known.id } }, body }))
      : await answer(api.POST("/api/sites/{site}/webhooks", { params: { path: { site } }, body }));
    if (webhook.signing_secret) keepSecret(webhook.id, webhook.signing_secret);
    client.setQueryData(webhookQuery(site, webhook.id).queryKey, { ...webhook, signing_secret: null });
    await client.invalidateQueries({ queryKey: ["webhooks", site] });
    await navigate({ to: "/sites/$site/webhooks/$webhook", params: { site, webhook: webhook.id } });
  });
  const { errors } = form;
  const shownElsewhere = ["url", "name", "secret", "format", "retry_schedule", "rate_limit", "headers"];
  const others = Object.entries(errors).filter(([field]) => !shownElsewhere.includes(field) && !/^triggers\[\d/.test(field));

  return (
    <form onSubmit={form.submit} className="grid max-w-3xl gap-6">
      <ProblemNotice problem={form.rest} />
      {others.length > 0 && (
        <div role="alert" className="rounded-lg bg-bad-tint px-4 py-3 text-sm text-bad">
          {others.map(([field, says]) => <p key={field}>{field}: {says.join(", ")}</p>)}
        </div>
      )}
      <Card>
        <div className="grid gap-5 p-5">
          <Destination site={site} url={url} errors={errors["url"]} format={format} secret={signing === "own" ? secret : undefined}
            onChange={(next) => {
              setUrl(next);
              if (!named) setName(next ? shortUrl(next).host.slice(0, 255) : "");
            }}
          />
          <TextField label={text.common.name} hint={words.nameHint} errors={errors["name"]} value={name} onChange={(event) => { setName(event.target.value); setNamed(true); }} required maxLength={255} />
          {!known && (
            <fieldset className="grid gap-2">
              <legend className="mb-1 text-sm font-medium">{words.secret}</legend>
              {(Object.entries(words.secrets) as [Signing, string][]).map(([value, label]) => (
                <label key={value} className="flex min-h-6 items-center gap-2.5 text-sm">
                  <input type="radio" name="signing" value={value} checked={signing === value} onChange={() => setSigning(value)} className="size-4.5 accent-press" />
                  {label}
                </label>
              ))}
              {signing === "own" && <TextField label={words.ownSecret} hint={words.ownSecretHint} errors={errors["secret"]} type="password" autoComplete="off" value={secret} onChange={(event) => setSecret(event.target.value)} required minLength={16} />}
            </fieldset>
          )}
        </div>
      </Card>
      {!known && (
        <Card title={words.triggers} lead={words.triggersLead}>
          <div className="grid gap-5 p-5">
            {triggers.map(({ key, body }, index) => (
              <div key={key} className="grid gap-3 border-line not-first:border-t not-first:pt-5">
                <TriggerFields
                  site={site}
                  value={body}
                  onChange={(next) => setTriggers(triggers.map((one) => (one.key === key ? { key, body: next } : one)))}
                  errors={(field) => errors[`triggers[${index}].${field}`]}
                />
                {errors[`triggers[${index}]`] && <p className="text-sm font-medium text-bad">{words.aTrigger} {errors[`triggers[${index}]`]!.join(", ")}.</p>}
                {triggers.length > 1 && (
                  <div className="flex justify-end"><Button small look="quiet" icon="trash" onClick={() => setTriggers(triggers.filter((one) => one.key !== key))}>{words.removeTrigger}</Button></div>
                )}
              </div>
            ))}
            <div><Button small icon="plus" onClick={() => setTriggers([...triggers, { key: 1 + Math.max(...triggers.map(({ key }) => key)), body: fresh("goal_completion") }])}>{words.addTrigger}</Button></div>
          </div>
        </Card>
      )}
      <details className="card" open={!!(known || errors["headers"] || errors["retry_schedule"] || errors["rate_limit"])}>
        <summary className="px-5 py-3 font-semibold">{words.advanced}</summary>
        <div className="grid gap-5 border-t border-line p-5">
          <SelectField label={words.format} errors={errors["format"]} value={format} onChange={(event) => setFormat(event.target.value)} options={Object.entries(words.formats)} />
          <fieldset className="grid gap-3">
            <legend className="mb-1 text-sm font-medium">{words.headers}</legend>
            <p className="text-sm text-muted">{words.headersHint}</p>
            {headers.map((header, index) => {
              const set = (part: Partial<Header>) => setHeaders(headers.map((one, at) => (at === index ? { ...one, ...part } : one)));
              return (
                <div key={index} className="grid grid-cols-[1fr_1fr_auto] items-end gap-2">
                  <TextField label={words.headerName} value={header.name} onChange={(event) => set({ name: event.target.value })} spellCheck={false} />
                  <TextField label={words.headerValue} value={header.value} onChange={(event) => set({ value: event.target.value })} spellCheck={false} autoComplete="off" />
                  <Button look="quiet" icon="trash" aria-label={`${words.removeHeader} ${header.name}`} onClick={() => setHeaders(headers.filter((_, at) => at !== index))} />
                </div>
              );
            })}
            {errors["headers"] && <p className="text-sm font-medium text-bad">{words.headers} {errors["headers"].join(", ")}.</p>}
            <div><Button small icon="plus" onClick={() => setHeaders([...headers, { name: "", value: "" }])}>{words.addHeader}</Button></div>
          </fieldset>
          <div className="grid gap-5 sm:grid-cols-2">
            <TextField label={words.retry} hint={words.retryHint} optional errors={errors["retry_schedule"]} value={retry} placeholder={known?.retry_schedule} onChange={(event) => setRetry(event.target.value)} spellCheck={false} />
            <TextField label={words.rate} hint={words.rateHint} optional errors={errors["rate_limit"]} type="number" min={1} max={1000} value={rate} onChange={(event) => setRate(event.target.value)} />
          </div>
        </div>
      </details>
      {!known && host && (
        <section aria-label={words.summary} className="rounded-lg bg-tint px-5 py-4 text-sm">
          <p className="[overflow-wrap:anywhere]">
            {words.summaryWhen([...new Set(triggers.map(({ body }) => text.triggers.names[body.type] ?? body.type))])}{" "}
            <span className="font-medium">{url === INBOX ? words.summaryInbox : words.summaryPost(host)}</span>
          </p>
        </section>
      )}
      <div className="flex justify-end gap-2">
        {known ? (
          <ButtonLink to="/sites/$site/webhooks/$webhook" params={{ site, webhook: known.id }}>{text.common.cancel}</ButtonLink>
        ) : (
          <ButtonLink to="/sites/$site/webhooks" params={{ site }}>{text.common.cancel}</ButtonLink>
        )}
        <Button type="submit" look="main" busy={form.busy}>{known ? text.common.save : words.create}</Button>
      </div>
    </form>
  );
}
