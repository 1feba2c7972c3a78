import { useState, type FormEvent } from "react";
import { Tabs } from "../parts/tabs";
import { Button, Card, Code, Field, Head, Notice, TextField } from "../parts/ui";
import go from "../snippets/verify.go?raw";
import node from "../snippets/verify.js?raw";
import php from "../snippets/verify.php?raw";
import python from "../snippets/verify.py?raw";
import ruby from "../snippets/verify.rb?raw";
import rust from "../snippets/verify.rs?raw";
import { text } from "../text";
import { verify, type Verdict } from "../verify";

const words = text.help;
const SNIPPETS = { node, python, go, ruby, php, rust };
const NAMES = { node: "Node", python: "Python", go: "Go", ruby: "Ruby", php: "PHP", rust: "Rust" };

export function Signatures() {
  const [language, setLanguage] = useState<keyof typeof SNIPPETS>("node");
  return (
    <>
      <Head title={words.title} lead={words.lead} />
      <div className="grid gap-6">
        <Card title={words.rules}>
          <ul className="grid list-disc gap-1.5 py-4 pr-5 pl-10 text-sm">{words.ruleList.map((rule) => <li key={rule}>{rule}</li>)}</ul>
        </Card>
        <Card title={words.snippets}>
          <Tabs label={words.language} names={NAMES} chosen={language} onChoose={setLanguage}>
            <Code label={NAMES[language]}>{SNIPPETS[language]}</Code>
          </Tabs>
        </Card>
        <Verifier />
      </div>
    </>
  );
}

function Verifier() {
  const [verdict, setVerdict] = useState<Verdict | null>(null);
  const check = async (event: FormEvent<HTMLFormElement>) => {
    event.preventDefault();
    const form = new FormData(event.currentTarget);
    const field = (name: string) => String(form.get(name) ?? "");
    setVerdict(await verify(field("secret"), field("id").trim(), field("timestamp").trim(), field("signature").trim(), field("body")));
  };
  return (
    <Card title={words.tryTitle} lead={words.tryLead}>
      <form onSubmit={(event) => void check(event)} className="grid gap-4 p-5">
        <div className="grid gap-4 sm:grid-cols-2">
          <TextField label={words.secret} name="secret" type="password" autoComplete="off" required />
          <TextField label={words.id} name="id" mono required autoComplete="off" spellCheck={false} />
          <TextField label={words.timestamp} name="timestamp" mono required autoComplete="off" inputMode="numeric" />
          <TextField label={words.signature} name="signature" mono required autoComplete="off" spellCheck={false} />
        </div>
        <Field label={words.body}>{(attributes) => <textarea {...attributes} name="body" rows={5} required spellCheck={false} className="field font-mono text-sm" />}</Field>
        <div className="flex flex-wrap items-center gap-4">
          <Button type="submit" look="main" icon="shield">{words.verify}</Button>
          <div role="status" className="min-w-0 flex-1">{verdict && <Notice tone={verdict === "valid" ? "good" : "bad"}>{words[verdict]}</Notice>}</div>
        </div>
      </form>
    </Card>
  );
}
