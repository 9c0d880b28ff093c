"""Best-fit packing as plainly as it can be said, O(n) a choice: what the real packer is compared with."""


def naive_rows(pieces: list[list[int]], sequence_len: int, buffer_documents: int, bos_id: int) -> list[list[int]]:
    """The complete rows of one pass over `pieces`: the largest of the buffer that fits, else the shortest, cropped.

    A row begins with the oldest piece where eight buffers' worth of others have arrived since.
    """
    waiting, buffer, rows = list(pieces), [], []
    arrived, born = 0, {}
    while True:
        row: list[int] = []
        while len(row) < sequence_len + 1:
            while waiting and len(buffer) < buffer_documents:
                buffer.append([bos_id, *waiting.pop(0)])
                born[id(buffer[-1])] = arrived
                arrived += 1
            if not buffer:
                return rows
            room = sequence_len + 1 - len(row)
            if room == 1:
                row.append(bos_id)
                continue
            fitting = [document for document in buffer if len(document) <= room]
            best = max(fitting, key=len) if fitting else min(buffer, key=len)
            oldest = min(buffer, key=lambda document: born[id(document)])
            if not row and arrived - born[id(oldest)] > 8 * buffer_documents:
                best = oldest
            del buffer[next(i for i, document in enumerate(buffer) if document is best)]
            row += best[:room]
        rows.append(row)
