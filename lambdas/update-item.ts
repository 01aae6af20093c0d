import type * as z from 'zod';
import { getItems, putVersioned, type Table, VersionConflictError } from './aws/dynamodb.ts';

/** As many agents' calls as one VM may have under way at once, and some. */
const ATTEMPTS = 6;

/**
 * Reads an item, decides what it becomes, and writes it if nobody wrote meanwhile; else looks and decides
 * again. `next` gives undefined where nothing is to be written.
 *
 * @returns the item as it is now
 * @throws VersionConflictError when it was written by others each time
 */
export async function updateItem<T extends { readonly pk: string; readonly version: number }>(
  table: Table,
  pk: string,
  schema: z.ZodType<T>,
  next: (known: T | undefined) => Omit<T, 'pk' | 'version'> | undefined,
): Promise<void> {
  for (let attempt = 1; ; attempt++) {
    const known = (await getItems(table, [pk], schema)).get(pk);
    const item = next(known);
    if (!item) return;
    try {
      await putVersioned(table, pk, known?.version, item);
      return;
    } catch (error) {
      if (!(error instanceof VersionConflictError) || attempt === ATTEMPTS) throw error;
      await new Promise((resolve) => setTimeout(resolve, Math.random() * 20 * 2 ** attempt));
    }
  }
}
