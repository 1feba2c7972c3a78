// Secrets that the server tells once. They are kept in memory until the page that shows them is left: in no address, no
// history and no storage.
const told = new Map<string, { secret: string; until?: string | null }>();
const watchers = new Set<() => void>();

/** Whoever shows it learns of it at once: nothing else on the page need change for that. */
export function keepSecret(webhook: string, secret: string, until?: string | null) {
  told.set(webhook, until === undefined ? { secret } : { secret, until });
  for (const watcher of watchers) watcher();
}
export const secretOf = (webhook: string) => told.get(webhook);
export const forgetSecret = (webhook: string) => told.delete(webhook);
export const watchSecrets = (watcher: () => void) => {
  watchers.add(watcher);
  return () => watchers.delete(watcher);
};
