// Secrets that the server tells once. They are kept in memory until the page that shows them is left: in no address, no
// history and no storage.
const told = new Map<string, { secret: string; until?: string | null }>();

export const keepSecret = (webhook: string, secret: string, until?: string | null) =>
  told.set(webhook, until === undefined ? { secret } : { secret, until });
export const secretOf = (webhook: string) => told.get(webhook);
export const forgetSecret = (webhook: string) => told.delete(webhook);
