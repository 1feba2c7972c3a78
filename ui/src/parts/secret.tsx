import { useEffect, useState, useSyncExternalStore } from "react";
import { exact } from "../format";
import { forgetSecret, secretOf, watchSecrets } from "../secrets";
import { text } from "../text";
import { ButtonLink, Code, Copy, Notice } from "./ui";

const words = text.webhooks;

/** Shown once; leaving the page forgets it. */
export function Secret({ id }: { id: string }) {
  const [shown, setShown] = useState(() => secretOf(id));
  const told = useSyncExternalStore(watchSecrets, () => secretOf(id));
  if (told && told !== shown) setShown(told);
  useEffect(() => {
    // In a strict development build effects run twice; what is forgotten is only what is not shown.
    return () => void setTimeout(() => document.querySelector(`[data-secret="${id}"]`) ?? forgetSecret(id));
  }, [id]);
  if (!shown) return null;
  return (
    <section data-secret={id} aria-label={words.secretTitle} className="card grid gap-4 border-good! p-5">
      <Notice tone="good" role="status" title={words.secretTitle}>
        <p>{words.secretWhy} {shown.until && words.rotated(exact(shown.until))}</p>
      </Notice>
      <Code label={words.secretTitle}>{shown.secret}</Code>
      <div className="flex flex-wrap items-center gap-2">
        <Copy value={`PULSEHOOK_WEBHOOK_SECRET=${shown.secret}`} label="PULSEHOOK_WEBHOOK_SECRET=…" />
        <ButtonLink to="/help/signatures" small look="quiet" icon="shield">{words.secretHelp}</ButtonLink>
      </div>
    </section>
  );
}
