import { useQuery } from "@tanstack/react-query";
import { meQuery, membersQuery } from "../api/queries";
import { Asked, Empty, Head, Moment, Table } from "../parts/ui";
import { text } from "../text";

const words = text.members;

export function Members() {
  const members = useQuery(membersQuery);
  const me = useQuery(meQuery);
  return (
    <>
      <Head title={words.title} lead={words.lead} />
      <div className="card">
        <Asked query={members}>
          {(list) =>
            list.length === 0 ? (
              <Empty title={words.title} icon="people">{words.empty}</Empty>
            ) : (
              <Table label={words.title} head={[words.email, text.common.role, words.since]}>
                {list.map((member) => (
                  <tr key={member.id}>
                    <td className="px-5 py-3 [overflow-wrap:anywhere]">
                      <span className="font-medium">{member.email}</span>
                      {me.data?.who === `user:${member.id}` && <span className="text-muted"> ({words.you})</span>}
                    </td>
                    <td className="px-5 py-3">{text.keys.roleNames[member.role] ?? member.role}</td>
                    <td className="px-5 py-3"><Moment at={member.inserted_at} /></td>
                  </tr>
                ))}
              </Table>
            )
          }
        </Asked>
      </div>
    </>
  );
}
