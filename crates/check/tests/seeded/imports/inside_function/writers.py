import csv


def write_rows(rows, path):
    with open(path, "w", newline="") as file:  # BUG: LW101
        csv.writer(file).writerows(rows)
