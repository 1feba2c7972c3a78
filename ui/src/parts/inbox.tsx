import { useQuery } from "@tanstack/react-query";
import type { InboxRequest, Webhook } from "../api/client";
import { inboxQuery } from "../api/queries";
import type { Tone } from "../health";
import { text } from "../text";
import { Asked, Badge, Card, Code, Copy, Empty, Moment } from "./ui";

const words = text.inbox;
const TONES: Record<string, Tone> = { verified: "good", unsigned: "plain", mismatch: "bad" };

/** Milliseconds between two looks: whoever looks waits for something. */
const EVERY = 400;

/** What arrived, as a receiver sees it, while it arrives. */
export function Inbox({ site, webhook }: { site: string; webhook: Pick<Webhook, "id"> }) {
  const requests = useQuery({ ...inboxQuery(site, webhook.id), refetchInterval: EVERY });
  return (
    <Card title={words.title} lead={words.lead}>
      <Asked query={requests} rows={2}>
        {(list) =>
          list.length === 0 ? (
            <Empty title={words.emptyTitle} icon="inbox">{words.empty}</Empty>
          ) : (
            <ul aria-label={words.title} className="max-h-[36rem] divide-y divide-line overflow-y-auto" tabIndex={0}>
              {list.map((request, index) => <Request key={request.id} request={request} open={index === 0} />)}
            </ul>
          )
        }
      </Asked>
      <p role="status" className="sr-only">{requests.data?.[0] ? words.arrived(words.verdicts[requests.data[0].verdict] ?? "") : ""}</p>
    </Card>
  );
}

function Request({ request, open }: { request: InboxRequest; open: boolean }) {
  const type = request.headers.find(({ name }) => name === "x-webhook-event-type")?.value ?? "";
  return (
    <li>
      <details open={open} className="@container">
        <summary className="flex flex-wrap items-center gap-x-4 gap-y-1 px-5 py-3 text-sm -outline-offset-2! hover:bg-sunken">
          <Badge tone={TONES[request.verdict] ?? "plain"}>{words.verdicts[request.verdict] ?? request.verdict}</Badge>
          <span className="min-w-0 flex-1 basis-32 font-medium">{text.triggers.names[type] ?? type}</span>
          <span className="text-muted"><Moment at={request.received_at} /></span>
        </summary>
        <div className="grid gap-3 px-5 pb-5 @4xl:grid-cols-2">
          <div className="grid content-start gap-1.5">
            <h3 className="text-sm font-medium text-muted">{text.deliveries.headers}</h3>
            <Code label={text.deliveries.headers} copy={false}>{request.headers.map(({ name, value }) => `${name}: ${value}`).join("\n")}</Code>
          </div>
          <div className="grid content-start gap-1.5">
            <h3 className="text-sm font-medium text-muted">{text.deliveries.body}</h3>
            <Code label={text.deliveries.body} copy={false}>{laidOut(request.body)}</Code>
            <div><Copy value={request.body} label={words.copyBody} /></div>
          </div>
        </div>
      </details>
    </li>
  );
}

/** What is JSON is easier to read on many lines. */
function laidOut(body: string): string {
  try {
    return JSON.stringify(JSON.parse(body), null, 2);
  } catch {
    return body;
  }
}
