import { useQuery, useQueryClient } from "@tanstack/react-query";
import { useNavigate, useSearch } from "@tanstack/react-router";
import { useState } from "react";
import { api, answer, Problem } from "../api/client";
import { invitedQuery } from "../api/queries";
import { exact } from "../format";
import { useForm } from "../parts/form";
import { Button, ButtonLink, Head, Loading, ProblemNotice, TextField } from "../parts/ui";
import { roleName } from "../roles";
import { text } from "../text";
import { PlainFrame } from "./plain-frame";

const words = text.invitation;

/** What somebody sees who follows the link. */
export function Invitation() {
  const { token = "" } = useSearch({ from: "/invitation" });
  const client = useQueryClient();
  const navigate = useNavigate();
  const invited = useQuery({ ...invitedQuery(token), enabled: token !== "" });
  const [password, setPassword] = useState("");
  const form = useForm(async () => {
    await answer(api.POST("/api/invitations/accept", { body: { token, password } }));
    // Somebody else may have been signed in.
    client.removeQueries({ predicate: ({ queryKey }) => queryKey[0] !== "invited" });
    // The link is used up; it need not stay in the history.
    await navigate({ to: "/", replace: true });
  });
  if (token === "" || invited.error) {
    const problem = Problem.of(invited.error);
    const why = token === "" ? words.noToken : problem.code === "wrong_invitation" ? words.broken : problem.message;
    return (
      <PlainFrame>
        <Head title={words.brokenTitle} lead={why} />
        <ButtonLink to="/sign-in">{text.signIn.title}</ButtonLink>
      </PlainFrame>
    );
  }
  if (!invited.data) return <PlainFrame><Loading /></PlainFrame>;
  const { account, email, role, has_password, expires_at } = invited.data;
  return (
    <PlainFrame>
      <Head title={words.title(account)} lead={words.lead(email, roleName(role))} />
      <form onSubmit={form.submit} className="grid gap-4">
        <ProblemNotice problem={form.rest} />
        {/* So that the browser keeps the password under the right name. */}
        <TextField label={text.setup.email} type="email" value={email} readOnly autoComplete="username" />
        <TextField
          label={has_password ? words.password : words.newPassword}
          hint={has_password ? words.passwordHint : text.setup.passwordHint}
          errors={form.errors["password"]}
          type="password"
          value={password}
          onChange={(event) => setPassword(event.target.value)}
          required
          autoComplete={has_password ? "current-password" : "new-password"}
          autoFocus
        />
        <Button type="submit" look="main" busy={form.busy}>{words.accept}</Button>
        <p className="text-sm text-muted">{words.until(exact(expires_at))}</p>
      </form>
    </PlainFrame>
  );
}
