import { useInfiniteQuery, useQuery } from "@tanstack/react-query";
import { auditQuery, keysQuery, membersQuery } from "../api/queries";
import { zone } from "../format";
import { Asked, Button, Empty, Head, Moment, Table } from "../parts/ui";
import { text } from "../text";

const words = text.audit;

/** Each change in a line: what it was before, what it is now. */
function changes(detail: Record<string, unknown> | null) {
  const plain = (value: unknown) => (value === null || value === undefined ? words.nothing : typeof value === "string" ? value : JSON.stringify(value));
  const said = Object.entries(detail ?? {}).filter(([, value]) => value !== null && value !== undefined);
  const lines = said.map(([name, value]) =>
    Array.isArray(value) && value.length === 2 ? words.change(name, plain(value[0]), plain(value[1])) : `${name}: ${plain(value)}`,
  );
  return lines.length === 0 ? null : <ul>{lines.map((line) => <li key={line}>{line}</li>)}</ul>;
}

export function Audit() {
  const entries = useInfiniteQuery(auditQuery);
  const members = useQuery({ ...membersQuery, retry: false });
  const keys = useQuery({ ...keysQuery, retry: false });
  const who = (actor: string) => {
    const [kind = "", id] = actor.split(":");
    const name = members.data?.find((member) => member.id === id)?.email ?? keys.data?.find((key) => key.id === id)?.name ?? id;
    // People are known by their address.
    return kind === "user" && name.includes("@") ? name : [words.actors[kind] ?? kind, name].filter(Boolean).join(" ");
  };
  const what = (object: string) => {
    const [kind = "", id] = object.split(":");
    return kind === "user" ? (members.data?.find((member) => member.id === id)?.email ?? object) : object;
  };
  return (
    <>
      <Head title={words.title} lead={`${words.lead} ${text.common.zone(zone)}`} />
      <div className="card">
        <Asked query={entries}>
          {({ pages }) => {
            const list = pages.flatMap((page) => page.entries);
            if (list.length === 0) return <Empty title={words.title} icon="list">{words.empty}</Empty>;
            return (
              <Table
                label={words.title}
                items={list}
                keyOf={({ id }) => id}
                columns={[
                  { name: words.when, bare: true, className: "whitespace-nowrap max-sm:font-medium", of: (entry) => <Moment at={entry.inserted_at} exactly /> },
                  { name: words.who, className: "[overflow-wrap:anywhere] sm:min-w-44", of: ({ actor }) => who(actor) },
                  { name: words.what, className: "sm:whitespace-nowrap", of: ({ action }) => <span title={action}>{words.actions[action] ?? action}</span> },
                  { name: words.object, className: "font-mono text-xs [overflow-wrap:anywhere] sm:min-w-44", of: ({ object }) => what(object) },
                  { name: words.changes, className: "[overflow-wrap:anywhere] sm:min-w-44", of: ({ detail }) => changes(detail) },
                  { name: words.network, className: "font-mono text-xs whitespace-nowrap", of: ({ network }) => network ?? null },
                ]}
              />
            );
          }}
        </Asked>
        {entries.hasNextPage && (
          <div className="border-t border-line p-4 text-center">
            <Button busy={entries.isFetchingNextPage} onClick={() => void entries.fetchNextPage()}>{text.common.more}</Button>
          </div>
        )}
      </div>
    </>
  );
}
