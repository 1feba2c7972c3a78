import { useInfiniteQuery, useQuery } from "@tanstack/react-query";
import { auditQuery, keysQuery, membersQuery } from "../api/queries";
import { zone } from "../format";
import { Asked, Button, Empty, Head, Moment, Table } from "../parts/ui";
import { text } from "../text";

const words = text.audit;

/** Each change in a line: what it was before, what it is now. */
function changes(detail: Record<string, unknown> | null) {
  const plain = (value: unknown) => (value === null || value === undefined ? words.nothing : typeof value === "string" ? value : JSON.stringify(value));
  const lines = Object.entries(detail ?? {}).map(([name, value]) =>
    Array.isArray(value) && value.length === 2 ? words.change(name, plain(value[0]), plain(value[1])) : `${name}: ${plain(value)}`,
  );
  return lines.length === 0 ? words.nothing : <ul>{lines.map((line) => <li key={line}>{line}</li>)}</ul>;
}

export function Audit() {
  const entries = useInfiniteQuery(auditQuery);
  const members = useQuery({ ...membersQuery, retry: false });
  const keys = useQuery({ ...keysQuery, retry: false });
  const who = (actor: string) => {
    const [kind = "", id] = actor.split(":");
    const name = members.data?.find((member) => member.id === id)?.email ?? keys.data?.find((key) => key.id === id)?.name ?? id;
    return [words.actors[kind] ?? kind, name].filter(Boolean).join(" ");
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
              <Table label={words.title} head={[words.when, words.who, words.what, words.object, words.changes, words.network]}>
                {list.map((entry) => (
                  <tr key={entry.id}>
                    <td className="px-5 py-2.5"><Moment at={entry.inserted_at} exactly /></td>
                    <td className="min-w-52 px-5 py-2.5 [overflow-wrap:anywhere]">{who(entry.actor)}</td>
                    <td className="px-5 py-2.5 font-mono text-xs whitespace-nowrap">{entry.action}</td>
                    <td className="min-w-36 px-5 py-2.5 font-mono text-xs [overflow-wrap:anywhere]">{entry.object}</td>
                    <td className="min-w-44 px-5 py-2.5 [overflow-wrap:anywhere]">{changes(entry.detail)}</td>
                    <td className="px-5 py-2.5 font-mono text-xs whitespace-nowrap">{entry.network ?? words.nothing}</td>
                  </tr>
                ))}
              </Table>
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
