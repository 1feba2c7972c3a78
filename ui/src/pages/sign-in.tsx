import { useQuery, useQueryClient } from "@tanstack/react-query";
import { Link, useRouter, useSearch } from "@tanstack/react-router";
import { useState } from "react";
import { api, answer, basePath } from "../api/client";
import { signUpClosedQuery } from "../api/queries";
import { useForm } from "../parts/form";
import { Button, Head, ProblemNotice, TextField } from "../parts/ui";
import { text } from "../text";
import { PlainFrame } from "./plain-frame";

export function SignIn() {
  const { to } = useSearch({ from: "/sign-in" });
  const router = useRouter();
  const client = useQueryClient();
  const open = useQuery(signUpClosedQuery).data === null;
  const [email, setEmail] = useState("");
  const [password, setPassword] = useState("");
  const form = useForm(async () => {
    await answer(api.POST("/api/session", { body: { email, password } }));
    client.clear();
    // Only ever a page of ours: the router knows no other.
    const path = to?.startsWith("/") && !to.startsWith("//") ? to : "/";
    router.history.replace(basePath === "/" ? path : basePath + path);
  });
  return (
    <PlainFrame>
      <Head title={text.signIn.title} />
      <form onSubmit={form.submit} className="grid gap-4">
        <ProblemNotice problem={form.rest} />
        <TextField label={text.signIn.email} errors={form.errors["email"]} type="email" value={email} onChange={(event) => setEmail(event.target.value)} required autoComplete="username" autoFocus />
        <TextField label={text.signIn.password} errors={form.errors["password"]} type="password" value={password} onChange={(event) => setPassword(event.target.value)} required autoComplete="current-password" />
        <Button type="submit" look="main" busy={form.busy}>{text.signIn.submit}</Button>
        <p className="text-sm text-muted">{text.signIn.first}</p>
        {open && <p className="text-sm text-muted">{text.signIn.noAccount} <Link to="/sign-up" className="link">{text.signUp.title}</Link></p>}
      </form>
    </PlainFrame>
  );
}
