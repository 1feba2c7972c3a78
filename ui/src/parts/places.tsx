// Where this server's traffic is, and how it reads a Plausible or a ClickHouse instead: by settings at its start, which no page
// can change.
import { useQuery } from "@tanstack/react-query";
import { useState } from "react";
import { meQuery } from "../api/queries";
import { text } from "../text";
import { Tabs } from "./tabs";
import { Code, Loading } from "./ui";

const words = text.places;
type Place = keyof typeof words.names;

const SETTINGS: Record<Place, string> = {
  plausible: `PULSEHOOK_DIRECTORY=plausible
PULSEHOOK_PLAUSIBLE_DATABASE_URL=postgres://user:password@host:5432/plausible_db
PULSEHOOK_ANALYTICS_URL=clickhouse://user:password@host:8123/plausible_events_db`,
  clickhouse: "PULSEHOOK_ANALYTICS_URL=clickhouse://user:password@host:8123/pulsehook",
};

/** What this server uses now, in a sentence. */
export function useInUse(): string | undefined {
  const me = useQuery(meQuery).data;
  return me && words.inUse[me.directory === "plausible" ? "plausible" : me.analytics];
}

/** What is in use is said at once; the settings are there for whoever asks. */
export function Places() {
  const me = useQuery(meQuery);
  const inUse = useInUse();
  const [place, setPlace] = useState<Place>("plausible");
  if (!me.data) return <Loading rows={1} />;
  return (
    <details className="card">
      <summary className="px-5 py-3 -outline-offset-2!">
        <span className="font-semibold">{me.data.directory === "plausible" ? words.connected : words.title}</span>
        <span className="mt-0.5 block pl-4.5 text-sm text-muted">{words.now} {inUse}</span>
      </summary>
      <div className="border-t border-line">
        {me.data.directory === "plausible" ? (
          <div className="grid gap-5 p-5"><Check /></div>
        ) : (
          <Tabs label={words.label} names={words.names} chosen={place} onChoose={setPlace}>
            <div className="grid gap-5">
              <div className="grid gap-3">
                <p className="text-muted">{words.hints[place]}</p>
                <Code label={words.settings(words.names[place])}>{SETTINGS[place]}</Code>
                <ul className="grid list-disc gap-1 pl-5 text-sm text-muted">{words.notes[place].map((note) => <li key={note}>{note}</li>)}</ul>
              </div>
              <p className="text-sm text-muted">{words.where}</p>
              <Check />
            </div>
          </Tabs>
        )}
      </div>
    </details>
  );
}

function Check() {
  return (
    <div className="grid gap-2">
      <p className="text-sm text-muted">{words.check}</p>
      <Code label={words.doctor}>pulsehook doctor</Code>
      <p className="text-sm text-muted">{words.checkContainer}</p>
      <Code label={words.doctorContainer}>docker compose exec pulsehook pulsehook doctor</Code>
    </div>
  );
}
