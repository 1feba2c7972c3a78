// How a site's traffic comes here, and whether it does.
import { useQuery } from "@tanstack/react-query";
import { useState } from "react";
import { home } from "../api/client";
import { meQuery, trafficQuery } from "../api/queries";
import { ago } from "../format";
import { useLive } from "../live";
import { text } from "../text";
import { Tabs } from "./tabs";
import { Asked, Code, Notice } from "./ui";

type Way = keyof typeof text.install.ways;

const snippets = (domain: string): Record<Way, [string, string]> => ({
  npm: [
    text.install.npmHint,
    `// npm install @plausible-analytics/tracker
import { init } from "@plausible-analytics/tracker";

init({
  domain: "${domain}",
  endpoint: "${home}/api/event",
});`,
  ],
  tag: [
    text.install.tagHint,
    `// pulsehook.js, on every page: <script defer src="/pulsehook.js"></script>
const send = (name, props) =>
  fetch("${home}/api/event", {
    method: "POST",
    keepalive: true,
    headers: { "content-type": "text/plain" },
    body: JSON.stringify({ name, props, url: location.href, referrer: document.referrer, domain: "${domain}" }),
  });
send("pageview");
window.pulsehook = send; // pulsehook("Signup", { plan: "free" })`,
  ],
  log: [
    text.install.logHint,
    `pulsehook import access-log access.log.gz --site ${domain}`,
  ],
  curl: [
    text.install.curlHint,
    `curl ${home}/api/event \\
  -H 'content-type: application/json' \\
  -H 'user-agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0' \\
  -H 'x-forwarded-for: 203.0.113.7' \\
  -d '{"name": "Signup", "url": "https://${domain}/", "domain": "${domain}"}'`,
  ],
});

/** Whether events arrive. It notices the first one by itself. */
export function Traffic({ site }: { site: string }) {
  const me = useQuery(meQuery);
  const traffic = useQuery(trafficQuery(site));
  useLive(["traffic", site]);
  const mirrored = me.data?.directory === "plausible";
  return (
    <Asked query={traffic} rows={1}>
      {({ first_event_at: first }) => (
        <Notice tone={first ? "good" : "plain"} role="status" title={first ? text.install.seen(ago(first)) : text.install.waiting}>
          {mirrored ? <p>{text.install.mirrored}</p> : !first && <p>{text.install.waitingHint}</p>}
        </Notice>
      )}
    </Asked>
  );
}

/** Beside Plausible nothing has to be set up: its own database is read. */
export function Ways({ domain }: { domain: string }) {
  const me = useQuery(meQuery);
  const [way, setWay] = useState<Way>("npm");
  const [hint, code] = snippets(domain)[way];
  if (me.data?.directory === "plausible") return null;
  return (
    <div className="card">
      <Tabs label={text.install.title} names={text.install.ways} chosen={way} onChoose={setWay}>
        <p className="mb-3 text-muted">{hint}</p>
        <Code label={text.install.ways[way]}>{code}</Code>
      </Tabs>
    </div>
  );
}
