import discord
from discord.ext import commands

import http_tools

bot = commands.Bot(command_prefix="!")


@bot.command()
async def weather(ctx, city: str):
    data = http_tools.forecast(city)
    await ctx.send(f"{city}: {data['summary']}")
